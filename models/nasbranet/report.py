"""A cross-validation in figures for the model card: by grade, by site, patient by patient; the worst to look at."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from rich.console import Console
from scipy import ndimage

from models.json_file import write_json
from models.nasbranet.crossval import gather
from models.nasbranet.refine_command import OWN, predictions, read_held
from models.refine import REFINEMENT, Refinement, load_refinement
from models.training import data
from models.training.folds import seen_by
from models.training.judge import per_patient
from models.training.metrics import dice, mean_interval
from models.training.refine_fit import Held

TRUTH, FOUND = (255, 60, 60), (70, 220, 255)


def report(
    data_folder: Annotated[Path, typer.Option("--data", help=data.DATA_HELP)],
    run: Annotated[Path, typer.Option(help="a cross-validation's folder")],
    out: Annotated[Path | None, typer.Option(help="folder for the figures that a card quotes; default RUN")] = None,
    name: Annotated[str, typer.Option(help="what the files are called")] = "nasbranet.crossval",
    refinement: Annotated[
        Path | None, typer.Option(help="post-processing; default RUN/refinement.json, by refine, else what ships")
    ] = None,
    worst: Annotated[
        Path | None, typer.Option(help="draw the ten worst here; pictures of patients, keep out of git")
    ] = None,
    cache: Annotated[Path, typer.Option(help="where prepared cases are kept between runs")] = Path("runs/prepared"),
) -> None:
    """Write Dice by patient as JSON and as a picture, and print it by grade and by site."""
    console, out = Console(), out or run
    if refinement is None:
        refinement = run / OWN if (run / OWN).is_file() else REFINEMENT
    settings = load_refinement(refinement)
    held = [(case, read_held(case, fold, kept, cache)) for case, fold, kept in predictions(data_folder, run)]
    if not held:
        raise data.DataError(f"{run} holds no fold that is done; run cross-validate first")
    by_case = {case.name: refined_dice(kept, settings) for case, kept in held}
    scores = per_patient([case for case, _ in held], by_case)
    cases = {case.patient: case for case, _ in held}
    mean, (low, high) = mean_interval(list(scores.values()))
    plain = gather(run, [case for case, _ in held])
    write_json(
        out / f"{name}.json",
        {
            "dice_mean": mean, "dice_interval": [low, high], "without_refinement": plain["dice_mean"],
            "refinement": settings.model_dump(exclude={"expected", "observed"}),
            "patients": {patient: round(score, 4) for patient, score in sorted(scores.items())},
            "taught_by_flair": taught_by_flair(data_folder, run),
        },
    )  # fmt: skip
    draw_patients(scores, cases, out / f"{name}.png")
    console.print(
        f"Dice {mean:.3f} ({low:.3f} to {high:.3f}), {len(scores)} patients; "
        f"without refinement {plain['dice_mean']:.3f}"
    )
    for heading, key in (("grade", "grade"), ("site", "site")):
        console.print(f"\n| {heading} | patients | mean Dice (95 % interval) | lowest |\n|---|---|---|---|")
        for value, group in by(scores, cases, key).items():
            middle, (a, b) = mean_interval(group)
            console.print(
                f"| {value or 'unknown'} | {len(group)} | {middle:.3f} ({a:.3f} to {b:.3f}) | {min(group):.3f} |"
            )
    if worst is not None:
        for old in worst.glob("[0-9][0-9]_*.png"):
            old.unlink()
        chosen = sorted(held, key=lambda pair: by_case[pair[0].name])[:10]
        for number, (case, kept) in enumerate(chosen, 1):
            path = worst / f"{number:02d}_{case.name}.png"
            draw_case(case, kept, settings, path)
            console.print(f"{by_case[case.name]:.3f} {path}")


def refined_dice(held: Held, settings: Refinement) -> float:
    """Dice of one held-out patient, post-processed as the node would."""
    probability = held.probability(flips=settings.flips)
    return dice(settings.mask(probability, held.spacing_mm), held.truth)


def by(scores: Mapping[str, float], cases: Mapping[str, data.Case], key: str) -> dict[str, list[float]]:
    """Group patients' scores by an attribute of their cases, in the attribute's order."""
    groups: dict[str, list[float]] = defaultdict(list)
    for patient, value in scores.items():
        groups[str(getattr(cases[patient], key))].append(value)
    return dict(sorted(groups.items()))


def taught_by_flair(data_folder: Path, run: Path) -> list[str]:
    """Name the patients without a true T1C who taught the folds of a run, and were judged by none."""
    seen = {name for fold in run.glob("fold_*") for name in seen_by(fold)}
    return sorted({case.patient for case in data.flair_only(data.read_cases(data_folder)) if case.name in seen})


def draw_patients(scores: Mapping[str, float], cases: Mapping[str, data.Case], path: Path) -> None:
    """Draw every patient's Dice, site by site, grades told apart; the line is the mean."""
    sites = sorted({case.site for case in cases.values()}, key=lambda s: -sum(c.site == s for c in cases.values()))
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.subplots()
    rng = np.random.default_rng(0)
    for grade, marker, colour in (("G2", "o", "#1f618d"), ("G3", "^", "#ca6f1e"), ("", "s", "#888888")):
        chosen = [n for n, c in cases.items() if (c.grade if c.grade in ("G2", "G3") else "") == grade]
        if chosen:
            x = [sites.index(cases[n].site) + rng.uniform(-0.28, 0.28) for n in chosen]
            label = {"G2": "grade 2", "G3": "grade 3"}.get(grade, "grade unknown")
            axes.scatter(x, [scores[n] for n in chosen], s=28, marker=marker, color=colour, label=label, alpha=0.85)
    mean = float(np.mean(list(scores.values())))
    axes.axhline(mean, color="black", linewidth=0.8)
    axes.annotate(f"mean {mean:.3f}", (len(sites) - 0.55, mean), va="bottom", ha="right", fontsize=9)
    axes.set_xticks(range(len(sites)), [_short(s) for s in sites], fontsize=9)
    axes.set_ylabel("Dice of a patient's whole volume")
    axes.set_ylim(min(0.4, min(scores.values()) - 0.02), 1.0)
    axes.grid(axis="y", linewidth=0.4)
    axes.legend(loc="lower left", frameon=False)
    figure.savefig(path, dpi=120)


def draw_case(case: data.Case, held: Held, settings: Refinement, path: Path) -> None:
    """Draw six slices through the lesion, T1C above and FLAIR below, drawn contour red, found contour blue."""
    images, truth = case.read()
    found = settings.mask(held.probability(flips=settings.flips), held.spacing_mm)
    seen = np.flatnonzero((truth | found).any(axis=(1, 2)))
    slices = seen[np.unique(np.linspace(0, len(seen) - 1, 6).round().astype(int))] if len(seen) else [len(truth) // 2]
    rows = [
        np.hstack([_outlined(images[z, ..., channel], truth[z], found[z]) for z in slices])
        for channel in (data.T1C, data.FLAIR)
    ]
    picture = Image.fromarray(np.vstack(rows))
    ImageDraw.Draw(picture).text((4, 2), f"{case.name} {dice(found, truth):.3f}", fill=(255, 255, 0))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def _outlined(grey: NDArray[np.uint8], truth: NDArray[np.bool_], found: NDArray[np.bool_]) -> NDArray[np.uint8]:
    picture = np.repeat(grey[..., None], 3, axis=-1)
    for mask, colour in ((truth, TRUTH), (found, FOUND)):
        picture[mask & ~ndimage.binary_erosion(mask)] = colour
    return picture


def _short(site: str) -> str:
    words = site.replace("-", " ").split()
    return "\n".join([" ".join(words[:2]), " ".join(words[2:])]) if len(words) > 2 else site
