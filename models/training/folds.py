"""Cross-validation by patient: one fold trained, and judged on the patients it never saw.

What a fold's network says of its held-out patients is kept beside its weights, so that post-processing and
uncertainty can be studied without running it again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress

from models.json_file import write_json
from models.refine import Segmenter, mirrored
from models.training import data
from models.training.augment import Slices
from models.training.judge import judge, map_dice, network_view, segmenter
from models.training.loop import Schedule, Trainer
from models.training.network import SegmentationNetwork


@dataclass(frozen=True, kw_only=True)
class Study:
    """A cross-validation: which patients, how many folds, how long."""

    cases: Sequence[data.Case]
    """With a true T1C: they train and judge."""
    helpers: Sequence[data.Case] = ()
    """Without one: they only train."""
    folds: int = 5
    schedule: Schedule = field(default_factory=Schedule)
    empty_share: float = 0.4
    inner_folds: int = 0
    """One of so many parts of a fold's training patients watches for the schedule's patience; 0: none does."""
    cache: Path = Path("runs/prepared")

    def __post_init__(self) -> None:
        if (self.schedule.patience is None) != (self.inner_folds == 0):
            raise data.DataError("patience and inner folds go together: it must not watch the patients that judge")

    def split(self, fold: int) -> tuple[list[data.Case], list[data.Case]]:
        """Divide into (training, held out) by patient."""
        training, held = data.split(self.cases, self.folds, fold, self.schedule.seed)
        data.refuse_shared_patients(self.helpers, held)
        return [*training, *self.helpers], held

    def inner_split(self, training: Sequence[data.Case]) -> tuple[list[data.Case], list[data.Case]]:
        """Divide a fold's training cases into (learning, watching) by patient; who lacks a T1C does not watch."""
        if not self.inner_folds:
            return list(training), []
        able = [case for case in training if case.has_t1c]
        _, watching = data.split(able, self.inner_folds, 0, self.schedule.seed)
        patients = {case.patient for case in watching}
        return [case for case in training if case.patient not in patients], watching


def run_fold(
    study: Study,
    fold: int,
    make: Callable[[], SegmentationNetwork],
    folder: Path,
    progress: Progress,
    teacher: SegmentationNetwork | None = None,
) -> dict[str, float]:
    """Train one fold in `folder`, or go on where it stopped; returns the Dice of each held-out case by name.

    Where patience stops it, part of the training patients watch (`Study.inner_folds`), never those held out. Writes
    split.json, last.pt, log.csv, predictions/CASE.npz and, when all is done, result.json.
    """
    done = folder / "result.json"
    if done.exists():
        kept: dict[str, float] = json.loads(done.read_text(encoding="utf-8"))["cases"]
        return kept
    training, held = study.split(fold)
    folder.mkdir(parents=True, exist_ok=True)
    names = {"training": [c.name for c in training], "validation": [c.name for c in held]}
    if watching := study.inner_split(training)[1]:
        names["watching"] = [c.name for c in watching]
    keep_or_refuse(folder / "split.json", names)
    network = _train(study, fold, training, make, folder, progress, teacher)
    scores = {}
    for case in progress.track(held, description=f"judging fold {fold}"):
        prepared = data.prepare(case, study.cache)
        maps = predict(segmenter(network), network_view(prepared))
        keep_prediction(folder / "predictions" / f"{case.name}.npz", maps)
        scores[case.name] = map_dice(maps[0], prepared)
    how = {"epochs": study.schedule.epochs, "stages": study.schedule.stages}
    stops = {"patience": study.schedule.patience} if study.inner_folds else {}
    write_json(done, {"cases": scores} | how | stops)
    return scores


def check_folds(cases: Iterable[data.Case], folds: int, wanted: Iterable[int]) -> None:
    """Raise DataError unless the cases' patients can be dealt to so many folds, and the wanted ones are among them."""
    patients = len({case.patient for case in cases})
    if not 2 <= folds <= patients:
        raise data.DataError(f"--folds must be from 2 to the number of patients, {patients}; not {folds}")
    if unknown := [fold for fold in wanted if not 0 <= fold < folds]:
        raise data.DataError(f"there is no fold {unknown[0]}; folds are 0 to {folds - 1}")


def refuse_other_folds(study: Study, fold: int, folder: Path) -> None:
    """Raise DataError unless `folder` holds a training that saw none of this fold's held-out patients."""
    refuse_seen(folder, [*study.cases, *study.helpers], study.split(fold)[1])


def refuse_seen(folder: Path, cases: Iterable[data.Case], held: Iterable[data.Case]) -> None:
    """Raise DataError unless the training in `folder` saw no patient of `held`; `cases` tell names' patients."""
    seen = set(seen_by(folder))
    data.refuse_shared_patients([case for case in cases if case.name in seen], held)


def seen_by(folder: Path) -> list[str]:
    """Name the cases that a training learnt from, itself or by what it began from; raises DataError where none is."""
    split = folder / "split.json"
    if not split.exists():
        raise data.DataError(f"{folder} holds no training: it has no split.json to say which patients it saw")
    try:
        parts = json.loads(split.read_text(encoding="utf-8"))
        return sorted({*parts["training"], *parts.get("seen_before", ())})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise data.DataError(f"{split} does not say which patients a training saw") from error


def predict(segment: Segmenter, view: NDArray[np.float32]) -> NDArray[np.float32]:
    """Ask a network twice: (2, slices, size, size), of the image as it is and of its mirror image, turned back."""
    return np.stack([segment(view), segment(mirrored(view))[..., ::-1]])


def keep_prediction(path: Path, maps: NDArray[np.float32]) -> None:
    """Write probabilities in half precision."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.npz")
    np.savez_compressed(part, maps=maps.astype(np.float16))
    part.replace(path)


def read_prediction(path: Path) -> NDArray[np.float32]:
    """Read what `keep_prediction` wrote."""
    with np.load(path) as kept:
        maps: NDArray[np.float32] = kept["maps"].astype(np.float32)
    return maps


def keep_or_refuse(path: Path, content: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> None:
    """Write what a folder's results were made with; raises DataError where it holds results made otherwise.

    `before` says what held for keys that were not written down in older folders.
    """
    if not path.exists():
        write_json(path, dict(content))
        return
    kept = {**(before or {}), **json.loads(path.read_text(encoding="utf-8"))}
    if other := differing(kept, content):
        raise data.DataError(f"{path.parent} holds results of another {', '.join(other)}; choose another --out")


def differing(kept: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Name the settings that are not the same in both, as JSON has them: a tuple is a list there."""
    one, other = (json.loads(json.dumps(settings)) for settings in (kept, now))
    return sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))


def keep_settings(folder: Path, content: Mapping[str, Any]) -> None:
    """Bind a folder to the settings of the training that is in it, or is about to be.

    Settings with which nothing was trained yet bind nothing. Raises DataError where what is there was trained with
    others, or nobody knows with which.
    """
    path = folder / "settings.json"
    if not any(folder.glob("last.pt")) and not any(folder.glob("fold_*/last.pt")):
        write_json(path, dict(content))
    elif path.exists():
        keep_or_refuse(path, content)
    else:
        raise data.DataError(f"{folder} holds a training that does not say how it was made; choose another --out")


def finished_predictions(run: Path) -> dict[str, tuple[int, Path]]:
    """List what the folds that are done kept: by name of case its fold and file."""
    return {
        kept.stem: (int(kept.parents[1].name.removeprefix("fold_")), kept)
        for kept in sorted(run.glob("fold_*/predictions/*.npz"))
        if (kept.parents[1] / "result.json").exists()
    }


def _train(
    study: Study,
    fold: int,
    training: Sequence[data.Case],
    make: Callable[[], SegmentationNetwork],
    folder: Path,
    progress: Progress,
    teacher: SegmentationNetwork | None,
) -> SegmentationNetwork:
    learning, watching = (
        [data.prepare(c, study.cache) for c in progress.track(part, description="preparing")]
        for part in study.inner_split(training)
    )
    torch.manual_seed(study.schedule.seed)
    network = make()
    slices = Slices(learning, study.empty_share, study.schedule.seed)
    trainer = Trainer(network, slices, study.schedule, folder, teacher)
    if trainer.resume():
        progress.console.print(f"fold {fold}: resuming after epoch {trainer.epoch} of {study.schedule.epochs}")
    validate = (lambda: float(np.mean(list(judge(segmenter(network), watching).values())))) if watching else None
    trainer.run(progress, validate)
    return network
