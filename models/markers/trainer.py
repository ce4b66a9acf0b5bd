"""The marker trainer: patients weigh alike, classes weigh alike, a checkpoint an epoch, resume at the next."""

from __future__ import annotations

import csv
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from rich.progress import Progress
from torch import Tensor, nn
from torch.utils.data import DataLoader

from models.markers.attention import Attention, attention_of
from models.markers.batch import SliceBatch
from models.markers.cells import Cells
from models.markers.data import SliceSet, TumourSlices
from models.markers.labels import Subject, label_of_patients
from models.markers.pooling import PatientClassifier, in_single_precision
from models.markers.recipe import Schedule
from models.markers.slices import NEGATIVE, POSITIVE, SEQUENCES
from models.training.data import DataError
from models.training.loop import autocast, placed, save_whole

LOGGER = logging.getLogger(__name__)
LAST = "last.pt"
"""File of the state after the last whole epoch."""
LOG_HEAD = ("epoch", "loss", "accuracy", "learning_rate")


def class_weights(subjects: Sequence[Subject]) -> Tensor:
    """Weigh the classes so that both count alike over patients: (2,), mean 1 over the patients.

    Raises `DataError` where a class has no patient.
    """
    counts = Counter(label_of_patients(subjects).values())
    if not counts[POSITIVE] or not counts[NEGATIVE]:
        raise DataError("training needs patients of both classes")
    return torch.tensor([counts.total() / (2 * counts[label]) for label in (NEGATIVE, POSITIVE)])


class MarkerTrainer:
    """Trains one network on one set of patients and keeps its state in a folder."""

    def __init__(
        self, classifier: PatientClassifier, cases: Sequence[TumourSlices], schedule: Schedule, folder: Path
    ) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.classifier = placed(classifier, self.device)
        self.schedule, self.folder = schedule, folder
        self.state, self.log = folder / LAST, folder / "log.csv"
        folder.mkdir(parents=True, exist_ok=True)
        self.bag = classifier.pooling.bag
        self.slices = SliceSet(cases, schedule.slices, schedule.seed, side_by_side=self.bag > 1)
        self.weights = class_weights([case.subject for case in cases]).to(self.device)
        # Whole bags only; normalisation in the networks needs two slices at least.
        self.batch = min(len(self.slices), max(self.bag, schedule.batch // self.bag * self.bag))
        self.steps = len(self.slices) // self.batch
        self.optimizer = torch.optim.AdamW(
            classifier.parameters(), schedule.peak_rate, weight_decay=schedule.weight_decay
        )
        # Below ten steps the schedule's parts would be empty; it stays unfinished then.
        self.rate = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, schedule.peak_rate, total_steps=max(10, self.steps * schedule.epochs), pct_start=0.2
        )
        self.epoch = 0

    def resume(self) -> bool:
        """Go on from the last whole epoch, if there is one."""
        if not self.state.exists():
            return False
        kept = torch.load(self.state, map_location="cpu", weights_only=True)
        self.classifier.load_state_dict(kept["classifier"])
        self.optimizer.load_state_dict(kept["optimizer"])
        self.rate.load_state_dict(kept["rate"])
        self.epoch = int(kept["epoch"])
        return True

    def run(self, progress: Progress) -> None:
        """Train to the schedule's end; nothing is chosen on any patient."""
        overall = progress.add_task("epochs", total=self.schedule.epochs, completed=self.epoch)
        while self.epoch < self.schedule.epochs:
            loss, accuracy = self._epoch(progress)
            self.epoch += 1
            self._record(loss, accuracy)
            if self.epoch in self.schedule.keep:
                save_whole(kept_weights(self.folder, self.epoch), {"classifier": self.classifier.state_dict()})
            self._save_state()
            progress.update(overall, completed=self.epoch)
        progress.remove_task(overall)

    def _epoch(self, progress: Progress) -> tuple[float, float]:
        """Go once through the epoch's slices and return the mean loss and accuracy over its answers."""
        self.classifier.train()
        seed = self.schedule.seed * 10_000 + self.epoch
        torch.manual_seed(seed)
        self.classifier.network.dropout.generator.manual_seed(seed)
        self.slices.begin_epoch(self.epoch)
        task = progress.add_task(f"epoch {self.epoch + 1}", total=self.steps)
        total, right, answers = 0.0, 0, 0
        for batch, target in self._batches():
            with autocast(self.device):
                prediction = self.classifier.network(batch)
            loss, logits = self.classifier.pooling.loss(in_single_precision(prediction), target, self.weights)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.classifier.parameters(), self.schedule.gradient_limit)
            self.optimizer.step()
            self.rate.step()
            total += float(loss.detach())
            right += int((logits.argmax(dim=1) == target[:: self.bag]).sum())
            answers += len(logits)
            progress.advance(task)
        progress.remove_task(task)
        return total / self.steps, right / answers

    def _batches(self) -> Iterator[tuple[SliceBatch, Tensor]]:
        """Yield the epoch's batches in the order that the slice set has drawn."""
        loader = DataLoader(
            self.slices, self.batch, drop_last=True,
            num_workers=self.schedule.workers, worker_init_fn=self.slices.begin_worker,
        )  # fmt: skip
        for images, mask, present, metadata, target in loader:
            laid = images.to(self.device, memory_format=torch.channels_last)
            there = (part.to(self.device) for part in (mask, present, metadata))
            yield SliceBatch(laid, *there), target.to(self.device)

    def _save_state(self) -> None:
        content = {
            "classifier": self.classifier.state_dict(), "optimizer": self.optimizer.state_dict(),
            "rate": self.rate.state_dict(), "epoch": self.epoch,
        }  # fmt: skip
        save_whole(self.state, content)

    def _record(self, loss: float, accuracy: float) -> None:
        new = not self.log.exists()
        with self.log.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(LOG_HEAD)
            writer.writerow([self.epoch, f"{loss:.5f}", f"{accuracy:.4f}", f"{self.rate.get_last_lr()[0]:.2e}"])
        LOGGER.info("epoch %d loss %.4f accuracy %.3f", self.epoch, loss, accuracy)


def kept_weights(folder: Path, epoch: int) -> Path:
    """Name the file of the weights after an epoch."""
    return folder / f"epoch_{epoch:03d}.pt"


def read_log(folder: Path) -> dict[int, tuple[float, float]]:
    """Return the mean training loss and accuracy after each epoch; an epoch trained twice counts as the second."""
    path = folder / "log.csv"
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {int(row["epoch"]): (float(row["loss"]), float(row["accuracy"])) for row in csv.DictReader(file)}


def load_weights(classifier: PatientClassifier, path: Path) -> PatientClassifier:
    """Give a network the weights that a training kept; raises `DataError` where they are not its own."""
    if not path.exists():
        raise DataError(f"there is no {path}; train first")
    try:
        classifier.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["classifier"])
    except RuntimeError:
        raise DataError(f"{path} holds the weights of another network") from None
    return classifier


def ask_patient(
    classifier: PatientClassifier, cases: Sequence[TumourSlices], cells: Cells, shown: Sequence[str] = SEQUENCES
) -> tuple[float, Attention | None]:
    """Return the positive class's probability of one patient, pooled over all slices of all their cases.

    And where the map of the more probable class lies, by where the network's `cells` look. Sequences that are not
    `shown` are missing. In single precision: bfloat16's rounding would tie patients that differ.
    """
    device = next(classifier.parameters()).device
    batches = [case.batch().only(shown) for case in cases]
    names = ("images", "mask", "present", "metadata")
    batch = SliceBatch(*(torch.cat([getattr(b, name) for b in batches]).to(device) for name in names))
    with torch.inference_mode():
        prediction = classifier.eval().network(batch)
        answer = classifier.pooling.patient(prediction)
        return float(answer[POSITIVE]), attention_of(prediction, batch, int(answer.argmax()), cells)
