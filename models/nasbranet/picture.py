"""A picture of a network: its branches through the scales, operator and width of every cell."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from models.nasbranet.plan import NetworkPlan, Op

COLOURS = {
    Op.SKIP: "#bbbbbb", Op.CONV: "#7fb3d5", Op.CONV_X2: "#1f618d", Op.ZOOM: "#f5b971", Op.ZOOM_X2: "#ca6f1e",
}  # fmt: skip


def draw_plan(plan: NetworkPlan, path: Path) -> None:
    """Write a PNG: columns are cells, rows are scales, a line is a branch, a number is channels."""
    longest = max(len(branch) for branch in plan.branches)
    figure = Figure(figsize=(1.05 * (longest + 2), 4.2), layout="constrained")
    axes = figure.subplots()
    for number, branch in enumerate(plan.branches):
        places = [(0.0, 1.0)] + [(float(i + 1), _row(cell.scale, number, i, plan)) for i, cell in enumerate(branch)]
        axes.plot(*zip(*places, strict=True), color="#555555", linewidth=1.2, zorder=1)
        for (x, y), cell in zip(places[1:], branch, strict=True):
            axes.scatter([x], [y], s=520, color=COLOURS[cell.op], edgecolor="black", zorder=2)
            axes.annotate(str(cell.channels), (x, y), ha="center", va="center", fontsize=8, color="black", zorder=3)
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
    part = path.with_suffix(".part.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(part, dpi=120)
    part.replace(path)


def _row(scale: int, branch: int, cell: int, plan: NetworkPlan) -> float:
    """Row of a cell; branches that run at one scale lie beside one another where they are not shared."""
    row = {2: 1.0, 4: 2.0, 8: 3.0}[scale]
    return row if cell < plan.shared or len(plan.branches) == 1 else row + (branch - 0.5) * 0.34
