"""Who takes part in the comparison, and the variants of a plan that the thesis's ablation has."""

from __future__ import annotations

import pytest
import torch

from models.nasbranet import compare as comparison
from models.nasbranet import variants
from models.nasbranet.cost import cost
from models.nasbranet.network import NASBraNet
from models.nasbranet.plan import PLANS, SHIPPED_PLAN, NetworkPlan
from models.nasbranet.roster import roster
from models.training.data import DataError

THESIS = NetworkPlan.load("thesis")


def test_a_fixed_width_keeps_operators_and_scales():
    plan = variants.fixed_width(THESIS, 32)
    assert {c.expansion for b in plan.branches for c in b} == {plan.stem_expansion, plan.head_expansion} == {32}
    shape = [[(c.op, c.scale) for c in b] for b in THESIS.branches]
    assert [[(c.op, c.scale) for c in b] for b in plan.branches] == shape
    assert plan.shared == THESIS.shared
    assert plan.name != THESIS.name


def test_a_single_branch_is_the_one_that_sees_farthest():
    plan = variants.single_branch(THESIS)
    assert plan.branches == (THESIS.branches[1],)
    assert plan.shared == 0
    assert NASBraNet(plan).eval()(torch.zeros(1, 2, 32, 32)).shape == (1, 2, 32, 32)


def test_a_pruned_teacher_is_as_narrow_as_can_be():
    plan = variants.pruned(variants.fixed_width(THESIS, 48))
    assert {c.expansion for b in plan.branches for c in b} == {16}
    wide, narrow = (cost(NASBraNet(p), (1, 2, 32, 32)) for p in (THESIS, plan))
    assert narrow.flops < wide.flops
    assert narrow.parameters < wide.parameters


@pytest.mark.parametrize("name", variants.ablation(THESIS))
def test_the_kept_plans_are_what_the_published_plan_makes(name, tmp_path):
    plan = variants.ablation(THESIS)[name]
    assert NetworkPlan.load(PLANS / f"thesis_{name}.json") == plan
    variants.save(plan, tmp_path / "plan.json")
    assert NetworkPlan.load(tmp_path / "plan.json") == plan


def test_the_ablation_orders_costs_as_the_thesis_does():
    costs = {e.name: cost(e.make(), (1, 2, 64, 64)) for e in roster(THESIS, THESIS) if "4-6" in e.tables}
    assert costs["nasbranet"].flops < costs["single_32"].flops < costs["double_32"].flops
    assert costs["nasbranet"].parameters < costs["single_32"].parameters < costs["double_32"].parameters
    assert costs["nasbranet"] == costs["nasbranet_taught"]


def test_without_a_teacher_what_it_teaches_is_told_to_lack_it():
    entries = roster(THESIS, None)
    lacking = {"teacher", "teacher_pruned", "nasbranet_taught", "shipped_taught"}
    assert {e.name for e in entries if e.make is None} == lacking
    assert "teacher" not in [e.name for e in comparison.choose(entries, "all")]
    with pytest.raises(DataError, match=r"nasbranet_taught cannot be built.*--teacher"):
        comparison.choose(entries, "nasbranet_taught")
    with pytest.raises(DataError, match="no network resnet; there are unet"):
        comparison.choose(entries, "unet,resnet")


def test_the_teacher_comes_first_whenever_it_is_needed():
    assert [e.name for e in comparison.choose(roster(THESIS, THESIS), "nasbranet_taught,unet")] == [
        "unet",
        "teacher",
        "nasbranet_taught",
    ]


@pytest.mark.parametrize("plan", [THESIS, NetworkPlan.load(SHIPPED_PLAN)], ids=["thesis", "shipped"])
def test_the_plan_that_ships_takes_part_whatever_plan_is_compared(plan):
    entries = roster(plan, THESIS)
    names = [e.name for e in entries]
    assert names[names.index("nasbranet") + 1] == "shipped"
    assert names.index("teacher") < names.index("shipped_taught")
    alone, taught = (e for e in entries if e.name.startswith("shipped"))
    assert alone.plan == taught.plan == NetworkPlan.load(SHIPPED_PLAN)
    assert (alone.taught, taught.taught) == (False, True)
    assert alone.tables == taught.tables == ("4-5",)
    assert alone.thesis is taught.thesis is None
