"""Pictures of how well a marker is told: ROC, reliability, and the curves of a training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from models.markers.metrics import auc, bin_numbers
from models.markers.outcomes import Outcome

BLUE, ORANGE, GREY = "#1f618d", "#ca6f1e", "#888888"
Curve = Mapping[int, tuple[float, float]]
"""Loss and accuracy after each epoch."""


def draw_roc(outcomes: Mapping[str, Outcome], path: Path, title: str) -> None:
    """Draw the ROC curve of each model over its held-out patients; the diagonal is chance."""
    figure, axes = _square(title)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle="--", label="chance")
    for name, outcome in outcomes.items():
        labels, probabilities = np.array(outcome.labels), np.array(outcome.probabilities)
        false, true, _ = roc_curve(labels, probabilities, drop_intermediate=False)
        axes.plot(false, true, linewidth=1.4, label=f"{name}, AUC {auc(labels, probabilities):.3f}")
    axes.set_xlabel("1 - specificity")
    axes.set_ylabel("sensitivity")
    _finish(figure, axes, path, "lower right")


def draw_reliability(outcome: Outcome, path: Path, title: str) -> None:
    """Draw how often the marker is positive against how probable it was called, in bins of about equal numbers."""
    figure, axes = _square(title)
    labels, probabilities = np.array(outcome.labels), np.array(outcome.probabilities)
    number = bin_numbers(probabilities)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle="--", label="as it should be")
    called = [float(probabilities[number == n].mean()) for n in np.unique(number)]
    found = [float(labels[number == n].mean()) for n in np.unique(number)]
    axes.plot(called, found, marker="o", color=BLUE, linewidth=1.4, label="held-out patients")
    for x, y, n in zip(called, found, np.unique(number), strict=True):
        axes.annotate(f"{int((number == n).sum())}", (x, y), textcoords="offset points", xytext=(5, -11), fontsize=8)
    axes.set_xlabel("probability of the positive class")
    axes.set_ylabel("share of positive patients")
    _finish(figure, axes, path, "upper left")


def draw_curves(curves: Mapping[str, Curve], path: Path, title: str) -> None:
    """Draw training loss and accuracy over epochs, each fold a thin line and the mean of those there a thick one."""
    figure = Figure(figsize=(9, 4.0), layout="constrained")
    for part, (axes, name, colour) in enumerate(
        zip(figure.subplots(1, 2), ("loss", "accuracy"), (ORANGE, BLUE), strict=True)
    ):
        for curve in curves.values():
            axes.plot(list(curve), [values[part] for values in curve.values()], color=colour, linewidth=0.6, alpha=0.5)
        mean = mean_curve(curves)
        axes.plot(list(mean), [values[part] for values in mean.values()], color=colour, linewidth=2.0)
        axes.set_xlabel("epoch")
        axes.set_ylabel(f"training {name}")
        axes.grid(linewidth=0.4)
    figure.suptitle(title, fontsize=10)
    _save(figure, path)


def draw_learning(points: Mapping[float, tuple[float, float, float]], path: Path, title: str) -> None:
    """Draw the AUC, with its interval (value, low, high), over how many patients were learnt from."""
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    values, low, high = np.array(list(points.values())).T
    axes.axhline(0.5, color=GREY, linewidth=0.8, linestyle="--", label="chance")
    axes.errorbar(
        list(points), values, yerr=(values - low, high - values), color=BLUE, marker="o", capsize=3, linewidth=1.4
    )
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("patients learnt from")
    axes.set_ylabel("AUC on the same held-out patients, 95 % interval")
    axes.set_xlim(0)
    _finish(figure, axes, path, "lower right")


def mean_curve(curves: Mapping[str, Curve]) -> dict[int, tuple[float, float]]:
    """Average curves over the folds that have an epoch."""
    epochs = sorted({epoch for curve in curves.values() for epoch in curve})
    found = {}
    for epoch in epochs:
        loss, accuracy = np.mean([curve[epoch] for curve in curves.values() if epoch in curve], axis=0)
        found[epoch] = (float(loss), float(accuracy))
    return found


def _square(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=10)
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    return figure, axes


def _finish(figure: Figure, axes: Axes, path: Path, corner: Literal["lower right", "upper left"]) -> None:
    axes.grid(linewidth=0.4)
    axes.legend(loc=corner, frameon=False, fontsize=8)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
