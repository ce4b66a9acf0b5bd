"""The search: train the supernet's weights on half of the patients, its architectures on the other half.

Warm-up trains weights alone. Then each batch moves both architectures, the student's against its time as well, and
after that the weights. A third group of patients, which trains nothing, tells how good the networks are that could
be read off. Everything is kept after each epoch, and an interrupted search goes on with the next.

Source: thesis sections 4.3.3 to 4.3.6; FasterSeg (ICLR 2020).
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor, nn
from torch.utils.data import DataLoader

from models.nasbranet.architecture import Architecture, Widths
from models.nasbranet.decode import decode
from models.nasbranet.latency import penalty_ms, plan_ms
from models.nasbranet.latency_table import LatencyTable
from models.nasbranet.plan import NetworkPlan
from models.nasbranet.search_settings import SearchSettings, score
from models.nasbranet.space import SearchSpace
from models.nasbranet.supernet import HEADS, Supernet
from models.training.augment import Slices
from models.training.data import Prepared
from models.training.folds import keep_or_refuse
from models.training.judge import map_dice, network_view
from models.training.loop import save_whole
from models.training.losses import focal_loss
from models.training.resize import shrink_labels, shrink_pair

STATISTICS = 12
"""Batches that an architecture's batch normalisation is measured on before the architecture is judged."""
PAIRS = ((2, 0), (2, 1))
"""Branch pairs that the search decides between, as levels where they end."""


CONSTANT_BEFORE = {
    "momentum": 0.9, "weight_decay": 5e-4, "gradient_limit": 5.0, "adam_betas": (0.5, 0.999), "empty_share": 0.2,
}  # fmt: skip
"""What held in folders of searches from before these were settings."""


class Groups(NamedTuple):
    """Patients of a search, three ways apart."""

    weights: Slices
    architecture: Slices
    judges: Sequence[Prepared]


class Candidate(NamedTuple):
    """A network that could be read off."""

    role: str
    pair: tuple[int, int]
    dice: float
    ms: float
    score: float
    plan: NetworkPlan


class Search:
    """One search and its folder."""

    def __init__(
        self,
        space: SearchSpace,
        groups: Groups,
        table: LatencyTable,
        settings: SearchSettings,
        folder: Path,
        device: torch.device | None = None,
    ) -> None:
        """`device` None: a GPU where there is one. Raises DataError where `folder` holds another search."""
        self.space, self.groups, self.table, self.settings, self.folder = space, groups, table, settings, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(settings.seed)
        self.net = Supernet(space).to(self.device)
        self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.draws = torch.Generator().manual_seed(settings.seed)
        self.weights = torch.optim.SGD(
            self.net.weights(), settings.weight_rate[0], settings.momentum, weight_decay=settings.weight_decay
        )
        self.architecture = torch.optim.Adam(
            self.net.architecture_parameters(), settings.architecture_rate, settings.adam_betas
        )
        self.epoch, self.time_weight = 0, settings.time_weight
        keep_or_refuse(folder / "settings.json", self._made_with(), CONSTANT_BEFORE)

    @property
    def state(self) -> Path:
        """The checkpoint."""
        return self.folder / "search.pt"

    def _made_with(self) -> dict[str, Any]:
        """Say all that a search's outcome depends on: a folder holds one search, never parts of two."""
        groups = self.groups
        parts = {"weights": groups.weights.cases, "architecture": groups.architecture.cases, "judges": groups.judges}
        return asdict(self.settings) | {
            "space": self.space.model_dump(), "device": dict(self.table.device), "table": self.table.digest,
            "cases": {part: sorted(prepared.case.name for prepared in cases) for part, cases in parts.items()},
        }  # fmt: skip

    def resume(self) -> bool:
        """Go on from the last whole epoch, if there is one."""
        if not self.state.exists():
            return False
        kept = torch.load(self.state, map_location="cpu", weights_only=True)
        self.net.load_state_dict(kept["net"])
        self.weights.load_state_dict(kept["weights"])
        self.architecture.load_state_dict(kept["architecture"])
        self.draws.set_state(kept["draws"])
        self.epoch, self.time_weight = int(kept["epoch"]), float(kept["time_weight"])
        return True

    def run(self, progress: Progress) -> list[Candidate]:
        """Search to the end; returns the last epoch's candidates, teacher and student, best score first."""
        settings = self.settings
        total = settings.warm_up + settings.epochs
        bar = progress.add_task("search", total=total, completed=self.epoch)
        candidates: list[Candidate] = []
        while self.epoch < total:
            searching = self.epoch >= settings.warm_up
            loss = self._epoch(progress, searching=searching)
            self.epoch += 1
            candidates = self.candidates() if searching else []
            self._record(loss, candidates)
            if candidates:
                student = max((c for c in candidates if c.role == "student"), key=lambda c: c.score)
                self.time_weight = settings.held(self.time_weight, student.ms)
            self._save()
            progress.update(bar, completed=self.epoch)
        return sorted(candidates or self.candidates(), key=lambda c: -c.score)

    def candidates(self) -> list[Candidate]:
        """Judge what could be read off now: accuracy from the supernet's own heads, time from the table."""
        found = []
        for role, architecture in (("teacher", self.net.teacher), ("student", self.net.student)):
            scores = self._judge(architecture)
            for pair in PAIRS:
                source = f"search with seed {self.settings.seed}, epoch {self.epoch} of {len(self)}"
                plan = decode(architecture, pair, f"searched-{role}-{pair[0]}{pair[1]}", source)
                dice = scores[HEADS.index((pair[1], pair[0]))]
                ms = plan_ms(plan, self.table, self.space.size)
                found.append(Candidate(role, pair, dice, ms, score(dice, ms, self.settings), plan))
        return found

    def __len__(self) -> int:
        """Epochs in all."""
        return self.settings.warm_up + self.settings.epochs

    def _epoch(self, progress: Progress, *, searching: bool) -> float:
        """Go through the batches once; returns the mean loss of the weights' steps."""
        settings = self.settings
        self.net.train()
        torch.manual_seed(settings.seed * 10_000 + self.epoch)
        since = self.epoch - (settings.warm_up if searching else 0)
        rate = settings.weight_rate[int(searching)] * settings.rate_decay**since
        for group in self.weights.param_groups:
            group["lr"] = rate
        pairs = zip(self._batches(self.groups.weights), self._batches(self.groups.architecture), strict=False)
        steps = min(len(self.groups.weights), len(self.groups.architecture)) // settings.batch
        steps = min(steps, settings.steps or steps)
        bar = progress.add_task(f"epoch {self.epoch + 1} ({'search' if searching else 'warm-up'})", total=steps)
        total = 0.0
        for _, (mine, other) in zip(range(steps), pairs, strict=False):
            if searching:
                self._move_architecture(*other)
            total += self._move_weights(*mine, searching=searching)
            progress.advance(bar)
        progress.remove_task(bar)
        return total / max(1, steps)

    def _batches(self, slices: Slices) -> Iterator[tuple[Tensor, Tensor]]:
        slices.begin_epoch(self.epoch)
        for image, target in DataLoader(slices, self.settings.batch, shuffle=True, drop_last=True):
            small, labels = shrink_pair(image, target, self.settings.scale)
            yield small.to(self.device, memory_format=torch.channels_last), labels.to(self.device)

    def _passes(self, *, searching: bool) -> list[tuple[Architecture, Widths]]:
        """List the passes of one step: both architectures' stems and heads learn in each.

        The teacher is in one of them. Its stem and heads need no pass at the narrowest: it is never anything but the
        widest, so that its own pass is the widest one for them, and they will never meet a narrow map.
        """
        teacher, student = self.net.teacher, self.net.student
        widest, narrowest = student.fixed(self.space.widest), student.fixed(0)
        if searching:
            drawn = student.sample(self.draws, self.settings.temperature_at(self.epoch))
            return [
                (teacher, teacher.fixed(self.space.widest)),
                (student, drawn),
                (student, widest),
                (student, narrowest),
            ]
        free = [student.random(self.draws) for _ in range(2)]
        return [(teacher, teacher.fixed(self.space.widest)), (student, narrowest), *((student, w) for w in free)]

    def _losses(self, image: Tensor, target: Tensor, *, searching: bool) -> float:
        """Add up the gradients of every pass, one pass in memory at a time; returns the loss."""
        total = 0.0
        for architecture, widths in self._passes(searching=searching):
            loss = head_loss(self.net(image, architecture, widths), target)
            loss.backward()
            total += float(loss.detach())
        return total

    def _move_weights(self, image: Tensor, target: Tensor, *, searching: bool) -> float:
        self.net.zero_grad(set_to_none=True)
        loss = self._losses(image, target, searching=searching)
        nn.utils.clip_grad_norm_(self.net.weights(), self.settings.gradient_limit)
        self.weights.step()
        return loss

    def _move_architecture(self, image: Tensor, target: Tensor) -> None:
        self.net.zero_grad(set_to_none=True)
        self._losses(image, target, searching=True)
        student, settings = self.net.student, self.settings
        drawn = student.sample(self.draws, settings.temperature_at(self.epoch))
        time = self.time_weight * penalty_ms(self.space, student, drawn, self.table, settings.penalty)
        time.backward()
        self.architecture.step()

    def _judge(self, architecture: Architecture) -> list[float]:
        """Mean Dice over the judging patients, head by head."""
        found: list[list[float]] = []
        widths = architecture.likeliest()
        batches = (image for image, _ in self._batches(self.groups.weights))
        renew_statistics(self.net, lambda image: self.net(image, architecture, widths), islice(batches, STATISTICS))
        with torch.inference_mode():
            for prepared in self.groups.judges:
                view = torch.from_numpy(network_view(prepared))
                side = view.shape[-1]
                small, _ = shrink_pair(view, torch.zeros(len(view), side, side), self.settings.scale)
                maps = [self.net(part.to(self.device), architecture, widths) for part in small.split(8)]
                heads = [torch.cat(parts).softmax(dim=1)[:, 1:] for parts in zip(*maps, strict=True)]
                full = [nn.functional.interpolate(h, (side, side), mode="bilinear")[:, 0].cpu() for h in heads]
                found.append([map_dice(head.numpy(), prepared) for head in full])
        return [float(value) for value in np.mean(found, axis=0)]

    def _save(self) -> None:
        state = {"net": self.net.state_dict(), "weights": self.weights.state_dict(), "draws": self.draws.get_state()}
        state |= {"architecture": self.architecture.state_dict(), "time_weight": self.time_weight}
        save_whole(self.state, state | {"epoch": self.epoch})

    def _record(self, loss: float, candidates: Sequence[Candidate]) -> None:
        log = self.folder / "log.csv"
        new = not log.exists()
        with log.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(["epoch", "loss", "role", "pair", "dice", "ms", "score", "lambda"])
            for c in candidates:
                row = [c.role, f"{c.pair[0]}+{c.pair[1]}", f"{c.dice:.4f}", f"{c.ms:.3f}", f"{c.score:.4f}"]
                writer.writerow([self.epoch, f"{loss:.4f}", *row, f"{self.time_weight:.4g}"])
            if not candidates:
                writer.writerow([self.epoch, f"{loss:.4f}", "", "", "", "", "", ""])


def renew_statistics(net: nn.Module, run: Callable[[Tensor], object], batches: Iterable[Tensor]) -> None:
    """Measure every batch normalisation's mean and variance anew for one architecture, and leave `net` evaluating.

    Teacher and student, widest and narrowest share these layers; what training keeps of all of them fits none
    (J. Yu and T. Huang, "Universally slimmable networks", ICCV 2019, section 3.3).
    """
    layers = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a plain mean over the batches
    net.train()
    with torch.no_grad():
        for image in batches:
            run(image)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    net.eval()


def head_loss(logits: Sequence[Tensor], target: Tensor) -> Tensor:
    """Focal loss, summed over the heads, at the heads' own size."""
    labels = shrink_labels(target, (logits[0].shape[-2], logits[0].shape[-1]))
    return torch.stack([focal_loss(head, labels) for head in logits]).sum()
