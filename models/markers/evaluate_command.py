"""The command that judges a cross-validation: figures by patient, by site, and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from models.json_file import write_json
from models.markers.crossval import OUTCOMES
from models.markers.metrics import Performance, attention_shares, by_site, measure, paired
from models.markers.outcomes import Outcome, OutcomeError
from models.markers.plots import draw_reliability, draw_roc

NAMES = {
    "accuracy": "accuracy", "sensitivity": "sensitivity", "specificity": "specificity", "auc": "AUC",
    "kappa": "Cohen's kappa", "ece": "calibration error (ECE)",
}  # fmt: skip
SHARES = {
    "inside": "attention inside the tumour",
    "around": "attention inside or within 10 mm",
    "covered": "share of the brain that this is",
}


def evaluate(
    marker: Annotated[str, typer.Option(help="the marker that the run was trained for")],
    run: Annotated[Path, typer.Option(help="a training's folder, with outcomes.json")],
    json_file: Annotated[Path, typer.Option("--json", help="result file")],
    plots: Annotated[Path | None, typer.Option(help="folder for roc.png and reliability.png")] = None,
    threshold: Annotated[float, typer.Option(help="probability from which a patient is called positive")] = 0.5,
    against: Annotated[
        Path | None, typer.Option(help="outcomes.json of another model: the difference on common patients is told too")
    ] = None,
) -> None:
    """Measure a model on its held-out patients, each figure with its 95 % interval by bootstrap over patients.

    The threshold is not chosen on these patients. A model whose AUC's interval reaches .5 does not beat chance, and
    is said not to.
    """
    console = Console(stderr=True)
    outcome = Outcome.load(run / OUTCOMES)
    if outcome.marker != marker:
        raise OutcomeError(f"{run} was trained for {outcome.marker}, not {marker}")
    title = str(outcome.settings.get("title", marker))
    performance = measure(outcome.labels, outcome.probabilities, threshold)
    sites = by_site(outcome, threshold)
    content = {"marker": marker, "title": title, "model": outcome.model, **performance.content(), "sites": sites}
    attention = attention_shares([p.attention for p in outcome.patients if p.attention])
    content |= {"attention": {name: share.content() for name, share in attention.items()}}
    pair = None if against is None else paired(outcome, Outcome.load(against))
    content |= {"against": pair.content()} if pair else {}
    write_json(json_file, content | {"settings": dict(outcome.settings)})
    if plots is not None:
        draw_roc({outcome.model: outcome}, plots / "roc.png", title)
        draw_reliability(outcome, plots / "reliability.png", title)
    table = Table("figure", "value (95 % interval)", title=f"{title}, {outcome.model}")
    for name, shown in NAMES.items():
        table.add_row(shown, str(performance.figures[name]))
    for name, share in attention.items():
        table.add_row(SHARES[name], str(share))
    if pair is not None:
        table.add_row(f"AUC less the other's ({pair.other:.3f}), {pair.patients} patients", str(pair.difference))
    console.print(table)
    by = Table("site", "patients", "positive", "accuracy", "AUC", title="by site")
    for site, figures in sites.items():
        area = "one class" if figures["auc"] is None else f"{figures['auc']:.3f}"
        counts = (str(figures["patients"]), str(figures["positives"]))
        by.add_row(site, *counts, f"{figures['accuracy']:.3f}", area)
    console.print(by)
    console.print(verdict(performance))


def verdict(performance: Performance) -> str:
    """Say in a sentence whether the model beats chance, and how often the commoner class is met."""
    common = max(performance.positives, performance.patients - performance.positives) / performance.patients
    always = f"always naming the commoner class would be right in {common:.3f} of {performance.patients} patients"
    beats = "beats chance" if performance.beats_chance else "does NOT beat chance: its AUC's interval reaches .5"
    return f"This model {beats}; {always}."
