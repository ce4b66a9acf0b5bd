"""The command that fits a marker's figure model, judges it on patients it never saw, and writes what the node runs."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import skops.io
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from models import frame
from models.json_file import write_json
from models.markers.crossval import OUTCOMES
from models.markers.figure_fit import Patient, calibrate, ensemble, held_out, labels_of, nested_calibration
from models.markers.figure_model import CALIBRATION, MODEL, with_age
from models.markers.figure_table import TABLE, read_table, write_table
from models.markers.found import described as figures_of
from models.markers.labels import Subject, find_marker, read_subjects
from models.markers.metrics import auc as area
from models.markers.metrics import measure
from models.markers.outcomes import Outcome, PatientOutcome
from models.refine import REFINEMENT, Refinement, average_flips, load_refinement
from models.training import data
from models.training.folds import finished_predictions, read_prediction
from models.training.judge import framed_tumour, network_view

SHIPPED = "shipped"
"""Folder of the outcomes of what ships."""


def figures(
    marker: Annotated[str, typer.Option(help="idh, codel, mgmt, proliferation, tert, atrx, grade, or with --column")],
    data_folder: Annotated[Path, typer.Option("--data", help="folder with labels.csv and one folder of slices a case")],
    out: Annotated[
        Path, typer.Option(help="folder for outcomes.json, figures.json, figures.csv, the model and its calibration")
    ],
    segmentation: Annotated[
        Path | None,
        typer.Option(
            help="a cross-validation of the segmenting network: patients are judged by its outlines, as in the node"
        ),
    ] = None,
    from_table: Annotated[
        Path | None,
        typer.Option(
            "--from", help="figures.csv of an earlier run, in place of the images: of DATA labels.csv is read"
        ),
    ] = None,
    column: Annotated[str | None, typer.Option(help="another column of labels.csv")] = None,
    positive: Annotated[str | None, typer.Option(help="that column's value of an altered marker")] = None,
    threshold: Annotated[float | None, typer.Option(help="of a score: altered above it; default the median")] = None,
    folds: Annotated[int, typer.Option(min=2, help="parts the patients are dealt into")] = 5,
    repeats: Annotated[int, typer.Option(min=1, help="how often they are dealt anew; scores are averaged")] = 5,
    coverage: Annotated[float, typer.Option(help="share of each class whose true answer is never ruled out")] = 0.9,
    leave_out: Annotated[list[str] | None, typer.Option(help="leave out cases with this in their name")] = None,
    cache: Annotated[Path, typer.Option(help="where prepared cases are kept between runs")] = Path("runs/prepared"),
) -> None:
    """Fit named figures of the tumour, and age, to a marker by a small regularised model.

    Figures are reported of patients that neither the model nor, with --segmentation, the network had seen; the model
    that is written learns from all of them. outcomes.json is of the models that each fold chose, shipped/outcomes.json
    of the kinds that were written, as they are calibrated; figures.csv keeps what the models were shown.
    """
    console = Console(stderr=True)
    question, subjects = read_subjects(data_folder, find_marker(marker, column, positive, threshold), leave_out or ())
    with Progress(console=console) as progress:
        patients = described(subjects, from_table, segmentation, cache, progress)
        task = progress.add_task("judging", total=folds * repeats)
        judged = held_out(patients, folds, repeats, lambda: progress.advance(task))
    write_table(out / TABLE, patients)
    weights, members = ensemble(patients, repeats)
    skops.io.dump([list(member) for member in members], out / MODEL, compression=zipfile.ZIP_DEFLATED, compresslevel=9)
    altered = labels_of(patients) == 1
    probabilities, _ = nested_calibration(judged.scores, altered, coverage, folds)
    auc = measure(altered.tolist(), list(probabilities)).figures["auc"]
    settings = {
        "title": question.title, "threshold": question.threshold, "folds": folds, "repeats": repeats,
        "coverage": coverage, "chosen": dict(judged.chosen),
        "judged_by_found_outlines": any(p.found is not None for p in patients),
    }  # fmt: skip
    _outcome(marker, patients, probabilities, settings).save(out / OUTCOMES)
    # The AUC pays for the choice of candidates; what reads the scores of what ships is fitted to scores of its kinds.
    each = judged.averaged(weights)
    scores = each.mean(axis=0)
    calibration = calibrate(scores, altered, coverage, auc.value, (auc.low, auc.high))
    (out / CALIBRATION).write_text(calibration.model_dump_json(indent=1) + "\n", encoding="utf-8")
    probabilities, verdicts = nested_calibration(scores, altered, coverage, folds)
    _outcome(marker, patients, probabilities, settings | {"shipped": weights}).save(out / SHIPPED / OUTCOMES)
    summary = {
        "marker": marker, "model": weights, "auc": auc.content(), "shipped": of_shipped(each, altered),
        **said(verdicts, altered), "settings": settings,
    }  # fmt: skip
    write_json(out / "figures.json", summary)
    ships = ", ".join(f"{count} x {name}" for name, count in weights.items())
    console.print(f"{question.title}: AUC {auc}, {len(patients)} patients, {altered.sum()} altered; {ships}")
    console.print(
        f"said of {summary['said']:.0%} of patients, rightly of {summary['right_of_said']:.0%} of those; "
        f"true answer kept open or said in {summary['covered']:.0%}"
    )


def of_shipped(each: NDArray[np.float64], altered: NDArray[np.bool_]) -> dict[str, Any]:
    """Tell the AUC of the kinds that ship, which does not pay for their choice, by the repeats' scores of patients.

    And how much wider a single repeat's scores lie than the average, by which they are calibrated: what ships learnt
    once, from everybody, and so lies between the two.
    """
    mean, labels = each.mean(axis=0), altered.astype(np.int64)
    return {
        "auc": area(labels, mean),
        "auc_of_each_repeat": [area(labels, scores) for scores in each],
        "deviation_over_average": float(each.std(axis=1).mean() / mean.std()),
    }


def described(
    subjects: Sequence[Subject], table: Path | None, segmentation: Path | None, cache: Path, progress: Progress
) -> list[Patient]:
    """Take patients' figures from a table of an earlier run or, without one, from their images.

    Raises DataError where both a table and outlines are given: the table has its own.
    """
    if table is None:
        return read_patients(subjects, segmentation, cache, progress)
    if segmentation is not None:
        raise data.DataError("--from holds the outlines that it was made with; leave --segmentation out")
    patients = read_table(table, subjects)
    refuse_twins(patients)
    return patients


def read_patients(
    subjects: Sequence[Subject], segmentation: Path | None, cache: Path, progress: Progress
) -> list[Patient]:
    """Describe everybody who has a true T1C and a tumour, by the outlines of a cross-validation too where one is given.

    Raises DataError where a patient has two cases: folds are dealt by rows.
    """
    found = {} if segmentation is None else {n: path for n, (_, path) in finished_predictions(segmentation).items()}
    shown = progress.track([s for s in subjects if s.case.has_t1c], description="reading patients")
    patients = [p for s in shown if (p := read_patient(s, cache, found.get(s.case.name))) is not None]
    refuse_twins(patients)
    return patients


def read_patient(subject: Subject, cache: Path, prediction: Path | None) -> Patient | None:
    """Describe a patient's tumour by both outlines; None where none was drawn."""
    prepared = data.prepare(subject.case, cache)
    view = network_view(prepared)
    drawn = _described(subject, view, framed_tumour(prepared), cache)
    if drawn is None:
        return None
    found = None if prediction is None else _found(prediction, load_refinement(REFINEMENT), subject.case.slice_mm)
    other = None if found is None else _described(subject, view, found, cache)
    return Patient(subject.patient, subject.case.site, bool(subject.label), drawn, other)


def refuse_twins(patients: Sequence[Patient]) -> None:
    """Raise DataError where a patient comes twice: folds are dealt by rows here."""
    if len({p.name for p in patients}) < len(patients):
        raise data.DataError("a patient has two cases; --leave-out one of them")


def said(verdicts: Sequence[str], altered: NDArray[np.bool_]) -> dict[str, Any]:
    """Sum up verdicts: how often something is said, how often rightly, and how often the truth is not ruled out."""
    found = np.array(verdicts)
    spoken = found != "indeterminate"
    right = (found == "altered") == altered
    of_each = {
        f"{answer}_{what}": int(count.sum())
        for answer in ("altered", "unaltered")
        for what, count in (("said", found == answer), ("right", (found == answer) & right))
    }
    return {
        **of_each,
        "said": float(spoken.mean()),
        "right_of_said": float(right[spoken].mean()) if spoken.any() else 0.0,
        "covered": float((right | ~spoken).mean()),
        "covered_altered": float((right | ~spoken)[altered].mean()),
        "covered_unaltered": float((right | ~spoken)[~altered].mean()),
    }


def _found(prediction: Path, refinement: Refinement, slice_mm: float) -> NDArray[np.bool_]:
    """Outline what a network found in a patient that it had not seen, as the node would, in the frame."""
    plain, back = read_prediction(prediction)
    spacing = (slice_mm, frame.FRAME_PIXEL_MM, frame.FRAME_PIXEL_MM)
    return refinement.mask(average_flips(plain, back) if refinement.flips else plain, spacing)


def _described(
    subject: Subject, view: NDArray[np.float32], tumour: NDArray[np.bool_], cache: Path
) -> NDArray[np.float64] | None:
    """Describe a tumour in figures and age; None where there is none."""
    found = figures_of(subject.case, view, tumour, cache)
    return None if found is None else with_age(found, subject.age_years)


def _outcome(
    marker: str, patients: Sequence[Patient], probabilities: NDArray[np.float64], settings: dict[str, Any]
) -> Outcome:
    judged = [
        PatientOutcome(p.name, p.site, 0, int(p.altered), float(probability))
        for p, probability in zip(patients, probabilities, strict=True)
    ]
    return Outcome(marker, "figures", settings, tuple(judged))
