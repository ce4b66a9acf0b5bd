import pytest
from pydantic import ValidationError

from models.nasbranet.plan import CellPlan, NetworkPlan, Op

# Thesis tables 4-3 and 4-4, read off by hand: operator, scale, output channels.
BRANCH_4 = """
conv x2 2 32, conv x2 2 32, zoom x2 2 32, zoom x2 2 32, conv x2 2 32, conv x2 2 32,
zoom x2 4 64, zoom x2 4 192, zoom x2 4 128"""
BRANCH_8 = """
conv x2 2 32, conv x2 2 32, zoom x2 2 32, zoom 2 64, zoom x2 4 64, zoom x2 4 64,
zoom x2 4 64, zoom x2 4 64, zoom x2 8 128, zoom x2 8 256"""


def test_the_published_plan_is_the_thesis_tables():
    plan = NetworkPlan.load("thesis")
    for branch, table in zip(plan.branches, (BRANCH_4, BRANCH_8), strict=True):
        assert [f"{c.op} {c.scale} {c.channels}" for c in branch] == [row.strip() for row in table.split(",")]
    assert (plan.shared, plan.in_channels) == (3, 2)


def test_a_plan_survives_json():
    plan = NetworkPlan.load("thesis")
    assert NetworkPlan.model_validate_json(plan.model_dump_json()) == plan


def cell(scale, op=Op.CONV, expansion=16):
    return CellPlan(op=op, scale=scale, expansion=expansion)


BAD = [
    ({"branches": [[cell(2), cell(8)]]}, "may only stay or double"),
    ({"branches": [[cell(4), cell(2)]]}, "may only stay or double"),
    ({"branches": [[cell(2), cell(2)], [cell(2, Op.ZOOM), cell(2)]], "shared": 1}, "not the same in every branch"),
    ({"branches": [[cell(2)], [cell(2)]], "shared": 1}, "never shared"),
    ({"branches": [[cell(2)]], "colour": "red"}, "Extra inputs"),
]


@pytest.mark.parametrize(("change", "reason"), BAD)
def test_a_plan_that_cannot_be_built_is_refused(change, reason):
    good = {
        "name": "x",
        "source": "x",
        "in_channels": 2,
        "classes": 2,
        "stem_expansion": 16,
        "head_expansion": 16,
        "shared": 0,
    }
    with pytest.raises(ValidationError, match=reason):
        NetworkPlan(**(good | change))
