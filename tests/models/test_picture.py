"""The picture of a plan: what it shows is what the plan says."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image
from typer.testing import CliRunner

from models.nasbranet import __main__ as command
from models.nasbranet.picture import COLOURS, plan_figure
from models.nasbranet.plan import PLANS, NetworkPlan, Op
from tests.models.test_training import small_plan


@pytest.mark.parametrize("name", ["thesis", "found_small_student", "thesis_single_32"])
def test_every_cell_is_drawn_in_its_place_with_its_operator_and_channels(name):
    plan = NetworkPlan.load(name)
    axes = plan_figure(plan).axes[0]
    shown = {tuple(text.xy): text.get_text() for text in axes.texts}
    colours = {}
    for dots in axes.collections:
        colours |= {tuple(place): tuple(dots.get_facecolor()[0][:3]) for place in dots.get_offsets().tolist()}
    assert len(axes.lines) == len(plan.branches)
    for number, (branch, line) in enumerate(zip(plan.branches, axes.lines, strict=True)):
        places = list(zip(*line.get_data(), strict=True))[1:]
        assert [x for x, _ in places] == list(range(1, len(branch) + 1))
        for index, ((x, y), cell) in enumerate(zip(places, branch, strict=True)):
            assert shown[(x, y)] == str(cell.channels)
            assert colours[(x, y)] == pytest.approx(to_rgb(COLOURS[cell.op]))
            assert round(y) == {2: 1, 4: 2, 8: 3}[cell.scale]
            lone = index < plan.shared or len(plan.branches) == 1
            assert (y - round(y)) * (number - 0.5) >= 0
            assert (y == round(y)) == lone, "shared cells lie on the line, the rest beside one another"


def test_the_command_writes_what_was_drawn(tmp_path):
    """A cell's colour takes much more room than its mark in the legend alone."""

    def drawn(op):
        cell = small_plan().branches[0][0].model_copy(update={"op": op, "expansion": 2})
        (tmp_path / "plan.json").write_text(
            small_plan().model_copy(update={"branches": ((cell, cell), (cell, cell))}).model_dump_json()
        )
        arguments = ["draw", "--plan", str(tmp_path / "plan.json"), "--to", str(tmp_path / "plan.png")]
        assert CliRunner().invoke(command.app, arguments).exit_code == 0
        with Image.open(tmp_path / "plan.png") as picture:
            pixels = np.asarray(picture.convert("RGB")).astype(int)
        colour = np.round(np.array(to_rgb(COLOURS[Op.ZOOM])) * 255)
        return int((abs(pixels - colour).max(axis=-1) <= 1).sum())

    assert drawn(Op.ZOOM) > 3 * drawn(Op.CONV) > 0


@pytest.mark.parametrize("name", ["thesis", "found_small_student", "found_small_teacher"])
def test_the_documents_have_a_picture_of_the_plan(name):
    picture = PLANS.parents[1] / "docs" / f"{name}.png"
    assert picture.name in (PLANS.parents[1] / "docs" / "nasbranet.md").read_text()
    with Image.open(picture) as kept:
        width, height = (round(100 * side) for side in plan_figure(NetworkPlan.load(name)).get_size_inches())
        assert kept.size == (width, height)
