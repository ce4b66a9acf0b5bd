"""How figures of markers are shown on the screen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from models.markers.metrics import Performance

NAMES = {
    "accuracy": "accuracy", "sensitivity": "sensitivity", "specificity": "specificity", "auc": "AUC",
    "kappa": "Cohen's kappa", "ece": "calibration error (ECE)",
}  # fmt: skip


def site_table(sites: Mapping[str, Mapping[str, Any]]) -> Table:
    """Lay out what `metrics.by_site` found."""
    table = Table("site", "patients", "positive", "accuracy", "AUC", title="by site")
    for site, figures in sites.items():
        area = "one class" if figures["auc"] is None else f"{figures['auc']:.3f}"
        counts = (str(figures["patients"]), str(figures["positives"]))
        table.add_row(site, *counts, f"{figures['accuracy']:.3f}", area)
    return table


def verdict(performance: Performance) -> str:
    """Say in a sentence whether the model beats chance, and how often the commoner class is met."""
    common = max(performance.positives, performance.patients - performance.positives) / performance.patients
    always = f"always naming the commoner class would be right in {common:.3f} of {performance.patients} patients"
    beats = "beats chance" if performance.beats_chance else "does NOT beat chance: its AUC's interval reaches .5"
    return f"This model {beats}; {always}."
