"""The trainer: one-cycle schedule over growing image sizes, a checkpoint an epoch, resume at the next.

Small images first: the network learns what tumour looks like at a quarter of the cost and how its edge runs
at full size (M. Tan and Q. Le, "EfficientNetV2", ICML 2021, section 4).
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.progress import Progress
from torch import Tensor, nn
from torch.utils.data import DataLoader

from models.training.augment import Slices
from models.training.data import DataError
from models.training.losses import distillation_loss, segmentation_loss
from models.training.network import SegmentationNetwork
from models.training.resize import shrink_pair

LOGGER = logging.getLogger(__name__)
_Network = TypeVar("_Network", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast a network trains."""

    stages: tuple[tuple[int, float], ...] = ((14, 0.5), (10, 0.75), (12, 1.0))
    """(epochs, share of the full image side) one after another."""
    batch: int = 8
    peak_rate: float = 2e-3
    """AdamW's highest learning rate."""
    weight_decay: float = 1e-2
    auxiliary_weight: float = 0.2
    """Weight of each branch's own loss beside the main one (FasterSeg)."""
    distillation_weight: float = 1.0
    """Weight of the teacher's lesson beside the segmentation loss (thesis section 4.3.4: equal)."""
    gradient_limit: float = 5.0
    patience: int | None = None
    """Stop when so many validations in a row brought nothing better, and keep the best; None to go to the end."""
    workers: int = 1
    """Processes that read and augment slices; 0 and 1 give the same slices, each number above its own."""
    seed: int = 0

    @classmethod
    def parse(cls, epochs: str, **settings: float | int | None) -> Schedule:
        """Read stages as the command line gives them, for example 14x0.5,10x0.75,12x1; raises DataError for others."""
        stages: tuple[tuple[int, float], ...] = ()
        with suppress(ValueError):
            stages = tuple((int(n), float(s)) for n, s in (part.split("x") for part in epochs.split(",")))
        if not stages or any(n < 1 or not 0.0 < scale <= 1.0 for n, scale in stages):
            form = "epochs x image scale (above 0, at most 1), one after another, as 10x0.5,4x0.75,3x1"
            raise DataError(f"--epochs is {form}; not {epochs!r}")
        return cls(stages=stages, **settings)  # type: ignore[arg-type]

    @property
    def epochs(self) -> int:
        """Epochs in all."""
        return sum(epochs for epochs, _ in self.stages)

    def scale(self, epoch: int) -> float:
        """Share of the full image side in this epoch."""
        for epochs, scale in self.stages:
            if epoch < epochs:
                return scale
            epoch -= epochs
        return self.stages[-1][1]


class Trainer:
    """Trains one network on one set of slices and keeps its state in a folder."""

    def __init__(
        self,
        network: SegmentationNetwork,
        slices: Slices,
        schedule: Schedule,
        folder: Path,
        teacher: SegmentationNetwork | None = None,
    ) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = placed(network, self.device)
        self.teacher = None if teacher is None else placed(teacher, self.device).eval().requires_grad_(False)
        self.slices, self.schedule = slices, schedule
        self.state, self.best, self.log = folder / "last.pt", folder / "best.pt", folder / "log.csv"
        folder.mkdir(parents=True, exist_ok=True)
        self.optimizer = torch.optim.AdamW(network.parameters(), schedule.peak_rate, weight_decay=schedule.weight_decay)
        self.steps = len(slices) // schedule.batch
        if not self.steps:
            raise DataError(f"{len(slices)} slices an epoch are fewer than a batch of {schedule.batch} (--batch)")
        self.rate = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, schedule.peak_rate, total_steps=max(10, self.steps * schedule.epochs), pct_start=0.2
        )
        self.epoch, self.best_score, self.waited = 0, -1.0, 0

    def resume(self) -> bool:
        """Go on from the last whole epoch, if there is one."""
        if not self.state.exists():
            return False
        kept = torch.load(self.state, map_location="cpu", weights_only=True)
        try:
            self.network.load_state_dict(kept["network"])
        except RuntimeError:  # torch names every layer that differs
            raise DataError(f"{self.state.parent} holds a training of another network; choose another --out") from None
        self.optimizer.load_state_dict(kept["optimizer"])
        self.rate.load_state_dict(kept["rate"])
        self.epoch, self.best_score, self.waited = int(kept["epoch"]), float(kept["best_score"]), int(kept["waited"])
        return True

    def run(self, progress: Progress, validate: Callable[[], float] | None = None, every: int = 5) -> None:
        """Train to the schedule's end, or until `patience` is used up.

        Without patience `validate` is only watched and logged, it chooses nothing; with it, it must not look at the
        patients that are reported.
        """
        overall = progress.add_task("epochs", total=self.schedule.epochs, completed=self.epoch)
        while self.epoch < self.schedule.epochs and not self._is_out_of_patience():
            loss = self._epoch(progress)
            self.epoch += 1
            last = self.epoch == self.schedule.epochs
            score = validate() if validate and (last or self.epoch % every == 0) else None
            self._weigh(score)
            self._save(self.state)
            self._record(loss, score)
            progress.update(overall, completed=self.epoch)
        if self.schedule.patience is not None and self.best.exists():
            kept = torch.load(self.best, map_location="cpu", weights_only=True)
            self.network.load_state_dict(kept["network"])
            self._save(self.state)

    def _is_out_of_patience(self) -> bool:
        return self.schedule.patience is not None and self.waited >= self.schedule.patience

    def _weigh(self, score: float | None) -> None:
        """Note whether the network got better."""
        if score is None or self.schedule.patience is None:
            return
        if score > self.best_score:
            self.best_score, self.waited = score, 0
            self._save(self.best)
        else:
            self.waited += 1

    def _epoch(self, progress: Progress) -> float:
        """Go once through the slices and return the mean loss."""
        self.network.train()
        torch.manual_seed(self.schedule.seed * 10_000 + self.epoch)
        self.slices.begin_epoch(self.epoch)
        task = progress.add_task(f"epoch {self.epoch + 1}", total=self.steps)
        total = 0.0
        for image, target in self._batches(self.schedule.scale(self.epoch)):
            with autocast(self.device):
                loss = self._loss(image, target)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), self.schedule.gradient_limit)
            self.optimizer.step()
            self.rate.step()
            total += float(loss.detach())
            progress.advance(task)
        progress.remove_task(task)
        return total / self.steps

    def _batches(self, scale: float) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield shuffled batches at the epoch's size."""
        loader = DataLoader(
            self.slices, self.schedule.batch, shuffle=True, drop_last=True,
            num_workers=self.schedule.workers, worker_init_fn=self.slices.begin_worker,
        )  # fmt: skip
        for batch in loader:
            image, target = shrink_pair(batch[0], batch[1], scale)
            yield image.to(self.device, memory_format=torch.channels_last), target.to(self.device)

    def _loss(self, image: Tensor, target: Tensor) -> Tensor:
        main, *auxiliary = (logits.float() for logits in self.network.forward_all(image))
        loss = segmentation_loss(main, target)
        for logits in auxiliary:
            loss = loss + self.schedule.auxiliary_weight * segmentation_loss(logits, target)
        if self.teacher is not None:
            with torch.no_grad():
                lesson = self.teacher(image)
            loss = loss + self.schedule.distillation_weight * distillation_loss(main, lesson.float())
        return loss

    def _save(self, path: Path) -> None:
        state = {
            "network": self.network.state_dict(), "optimizer": self.optimizer.state_dict(),
            "rate": self.rate.state_dict(), "epoch": self.epoch,
            "best_score": self.best_score, "waited": self.waited,
        }  # fmt: skip
        save_whole(path, state)

    def _record(self, loss: float, score: float | None) -> None:
        new = not self.log.exists()
        with self.log.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(["epoch", "loss", "learning_rate", "validation_dice"])
            writer.writerow([self.epoch, f"{loss:.4f}", f"{self.rate.get_last_lr()[0]:.2e}", score or ""])
        LOGGER.info("epoch %d loss %.4f dice %s", self.epoch, loss, score)


def save_whole(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint whole or not at all."""
    part = path.with_suffix(".part")
    torch.save(content, part)
    part.replace(path)


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """Compute in bfloat16 where the processor does so natively; elsewhere it would be slower."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_avx512_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16) if native else nullcontext()


def placed(network: _Network, device: torch.device) -> _Network:
    """Lay the weights out as convolutions like them, on the device that trains."""
    network.to(device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network
