"""A picture of a network: its branches through the scales, operator and width of every cell."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from matplotlib.figure import Figure

from models.nasbranet.plan import NetworkPlan, Op

COLOURS = {
    Op.SKIP: "#bbbbbb", Op.CONV: "#7fb3d5", Op.CONV_X2: "#1f618d", Op.ZOOM: "#f5b971", Op.ZOOM_X2: "#ca6f1e",
}  # fmt: skip
DARK = (Op.CONV_X2, Op.ZOOM_X2)
"""Black letters could not be read on these."""


def draw(
    plan: Annotated[str, typer.Option(help="a plan of models/plans by name, or a JSON file")],
    to: Annotated[Path, typer.Option(help="PNG file to write")],
) -> None:
    """Draw a plan's network: branches, scales, operators and channels."""
    draw_plan(NetworkPlan.load(plan), to)


def draw_plan(plan: NetworkPlan, path: Path) -> None:
    """Write `plan_figure` as a PNG, whole or not at all."""
    part = path.with_suffix(".part.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    plan_figure(plan).savefig(part, dpi=100)
    part.replace(path)


def plan_figure(plan: NetworkPlan) -> Figure:
    """Draw a plan: columns are cells, rows are scales, a line is a branch, a number is channels."""
    longest = max(len(branch) for branch in plan.branches)
    figure = Figure(figsize=(1.05 * (longest + 2), 4.2), layout="constrained")
    axes = figure.subplots()
    for number, branch in enumerate(plan.branches):
        places = [(0.0, 1.0)] + [(float(i + 1), _row(cell.scale, number, i, plan)) for i, cell in enumerate(branch)]
        axes.plot(*zip(*places, strict=True), color="#555555", linewidth=1.2, zorder=1)
        for (x, y), cell in zip(places[1:], branch, strict=True):
            axes.scatter([x], [y], s=520, color=COLOURS[cell.op], edgecolor="black", zorder=2)
            colour = "white" if cell.op in DARK else "black"
            axes.annotate(str(cell.channels), (x, y), ha="center", va="center", fontsize=8, color=colour, zorder=3)
    axes.scatter([0], [1], s=520, marker="s", color="white", edgecolor="black", zorder=2)
    axes.annotate("stem", (0, 1), ha="center", va="center", fontsize=8, zorder=3)
    axes.set_yticks([1, 2, 3], ["1/2", "1/4", "1/8"])
    axes.set_ylim(3.6, 0.4)
    axes.set_xticks(range(1, longest + 1))
    axes.set_xlabel("cell")
    axes.set_ylabel("scale")
    axes.set_title(f"{plan.name}: {plan.shared} shared cells, {plan.source}", fontsize=9)
    for op, colour in COLOURS.items():
        axes.scatter([], [], s=90, color=colour, edgecolor="black", label=str(op))
    axes.legend(ncols=len(COLOURS), loc="lower center", bbox_to_anchor=(0.5, -0.34), frameon=False, fontsize=8)
    return figure


def _row(scale: int, branch: int, cell: int, plan: NetworkPlan) -> float:
    """Row of a cell; branches that run at one scale lie beside one another where they are not shared."""
    row = {2: 1.0, 4: 2.0, 8: 3.0}[scale]
    return row if cell < plan.shared or len(plan.branches) == 1 else row + (branch - 0.5) * 0.34
