"""`evaluate --data`: ask the model that ships about a folder of patients, and tell how it did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from models.json_file import write_json
from models.markers.figure_model import MODEL, FigureModel
from models.markers.found import Finder
from models.markers.labels import Marker, Subject, find_marker, read_labelled
from models.markers.metrics import Estimate
from models.markers.plots import draw_reliability, draw_roc
from models.markers.screen import NAMES, site_table
from models.markers.shipped import (
    FOLDERS,
    HOME,
    Judged,
    Learnt,
    NotAssessable,
    Report,
    judge_all,
    judge_case,
    learnt_from,
)
from models.training import data

SHOWN = {**NAMES, "coverage": "an answer is given of", "right_of_said": "rightly, where one is given"}
CARD = "models/cards/markers.md"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the command line asked for."""

    marker: str
    folder: Path
    threshold: float
    drawn: bool
    model: Path | None
    weights: Path
    score_threshold: float | None
    leave_out: tuple[str, ...]
    cache: Path


def evaluate_shipped(asked: Asked, json_file: Path | None, plots: Path | None) -> None:
    """Judge, write and show; raises an error of one line where something asked for cannot be used."""
    console = Console(stderr=True)
    refuse_unwritable(json_file)
    model = open_model(asked.marker, asked.model)
    learnt = learnt_from(asked.marker, asked.model or weights_of(asked.marker), model.calibration)
    question = find_marker(asked.marker)
    if question.score or asked.score_threshold is not None:
        question = question.at(learnt.threshold if asked.score_threshold is None else asked.score_threshold)
    question, subjects, unlabelled = read_labelled(asked.folder, question, asked.leave_out)
    refuse_incomplete(asked.folder, question, subjects)
    finder = Finder(asked.weights, asked.cache)
    if not asked.drawn:
        learnt = learnt.with_network(finder.model.version)
    shown = track(subjects, f"{question.title}: asking", console=console)
    found = list(judge_all(shown, lambda s: judge_case(s, model, finder, asked.cache, drawn=asked.drawn)))
    report = Report(
        [f for f in found if isinstance(f, Judged)], [f for f in found if isinstance(f, NotAssessable)], asked.threshold
    )
    content = _about(asked, question, model, finder) | {"without_label": len(unlabelled)}
    content |= report.content() | held_out(report, learnt)
    if json_file is not None:
        write_json(json_file, content)
    if plots is not None and not report.why_no_auc:
        draw_roc({model.name: report.outcome}, plots / "roc.png", question.title)
        draw_reliability(report.outcome, plots / "reliability.png", question.title)
    _show(console, question, model, report, content)


def weights_of(marker: str) -> Path:
    """Name the folder of the model that ships for a marker; raises DataError where none does."""
    if marker not in FOLDERS:
        raise data.DataError(f"no model of {marker} ships; there is {', '.join(FOLDERS)}; or give --model")
    return HOME / "weights" / "markers" / FOLDERS[marker]


def open_model(marker: str, folder: Path | None) -> FigureModel:
    """Open the model that ships for a marker, or the one in a folder."""
    place = folder or weights_of(marker)
    if not (place / MODEL).is_file():
        raise data.DataError(f"there is no {place / MODEL}: `figures --out` writes one")
    return FigureModel(FOLDERS.get(marker, marker), place)


def refuse_unwritable(path: Path | None) -> None:
    """Raise DataError, before hours of work, where a result file cannot be written."""
    if path is None:
        return
    nearest = next(p for p in path.absolute().parents if p.exists())
    if path.is_dir() or not nearest.is_dir():
        raise data.DataError(f"{path} cannot be written: {'it' if path.is_dir() else nearest} is in the way")


def refuse_incomplete(folder: Path, question: Marker, subjects: Sequence[Subject]) -> None:
    """Raise DataError where nobody has a label, or a case of which labels.csv tells has no slices."""
    if not subjects:
        raise data.DataError(f"no patient of {folder} has a label of {question.title} (column {question.column})")
    gone = [s.case.name for s in subjects if s.case.has_t1c and not any(s.case.folder.glob("*.webp"))]
    if gone:
        raise data.DataError(f"{folder} lacks the slices of {len(gone)} of its cases, {gone[0]} first; mend labels.csv")


def held_out(report: Report, learnt: Learnt) -> dict[str, Any]:
    """Say whether the patients are new to the model, with a warning where not, and the figures of those who are."""
    seen = {j.subject.patient for j in report.judged} & learnt.everyone
    told: dict[str, Any] = {
        "held_out": False if seen else learnt.on_record or None,
        "seen_in_training": sorted(seen),
        "warning": None,
    }
    if seen:
        told["warning"] = (
            f"{len(seen)} of {len(report.judged)} patients judged taught the model, or the network that outlines: "
            f"figures with them are not held out and flatter it; of patients never seen {CARD} tells"
        )
    elif not learnt.on_record:
        told["warning"] = "nothing tells whom the model and the network learnt from: the patients may be among those"
    if 0 < len(seen) < len(report.judged):
        new = Report(
            [j for j in report.judged if j.subject.patient not in seen],
            [n for n in report.not_assessable if n.subject.patient not in learnt.everyone],
            report.threshold,
        )
        told["unseen"] = {k: v for k, v in new.content().items() if k not in {"patients", "not_assessable", "sites"}}
    return told


def _about(asked: Asked, question: Marker, model: FigureModel, finder: Finder) -> dict[str, Any]:
    known = model.calibration
    network = None if asked.drawn else finder.model
    return {
        "marker": asked.marker, "title": question.title, "model": model.name, "version": model.version,
        "stated": {"auc": known.auc, "auc_interval": list(known.auc_interval), "coverage": known.coverage},
        "score_threshold": question.threshold, "outlines": "drawn" if asked.drawn else "found",
        "segmenter": network and {"model": network.name, "version": network.version, "engine": network.engine},
    }  # fmt: skip


def _show(console: Console, question: Marker, model: FigureModel, report: Report, content: dict[str, Any]) -> None:
    table = Table("figure", "value (95 % interval)", title=f"{question.title}, {model.name} {model.version}")
    for name, estimate in report.figures().items():
        table.add_row(SHOWN[name], _told(estimate))
    console.print(table, site_table(content["sites"]))
    counts = f"{len(report.judged)} patients judged, {content['positives']} {question.positive}"
    lines = [f"{counts}; {content['without_label']} cases without a label are passed over"]
    lines += [f"not assessable, {n}: {why}" for why, n in Counter(r.reason for r in report.not_assessable).items()]
    unread = Counter(j.reason for j in report.judged if j.reason)
    lines += [f"verdict not assessed, {n}: {why}" for why, n in unread.items()]
    lines += [f"no AUC: {content['auc_reason']}"] if content["auc_reason"] else []
    lines += [f"[yellow]warning:[/] {content['warning']}"] if content["warning"] else []
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def _told(estimate: Estimate | None) -> str:
    return "cannot be measured here" if estimate is None else str(estimate)
