"""What is read off a searched architecture."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from models.nasbranet.architecture import Architecture
from models.nasbranet.decode import decode, path_to
from models.nasbranet.network import NASBraNet
from models.nasbranet.plan import NetworkPlan, Op
from models.nasbranet.space import OPS, SearchSpace


def plant(space, halvings=(), skips=(), *, teacher=False, op=Op.CONV):
    """An architecture that surely wants one operator, skips in these cells, and these halvings (cell, into level)."""
    made = Architecture(space, searches_width=not teacher)
    with torch.no_grad():
        made.alpha[..., OPS.index(op)] = 5.0
        for cell in skips:
            made.alpha[cell, :, OPS.index(Op.SKIP)] = 9.0 + cell / 100
        for cell, level in halvings:
            made.beta[cell + 1, level] = torch.tensor([4.0, -4.0])
    return made


@pytest.mark.parametrize("cell", [2, 5, 9, 13])
def test_one_halving_is_found_at_its_own_cell(cell):
    """Defect 3 of the released code: it was placed one cell early."""
    nodes = path_to(plant(SearchSpace(), [(cell, 1)]), 1)
    assert [b.level - a.level for a, b in pairwise(nodes)].index(1) == cell


@pytest.mark.parametrize("cells", [(2, 5), (4, 9), (3, 13)])
def test_two_halvings_are_found_at_their_own_cells(cells):
    nodes = path_to(plant(SearchSpace(), [(cells[0], 1), (cells[1], 2)]), 2)
    assert [i for i, (a, b) in enumerate(pairwise(nodes)) if b.level > a.level] == list(cells)


def test_an_undecided_architecture_does_not_halve_as_late_as_it_can():
    levels = [node.level for node in path_to(Architecture(SearchSpace(), searches_width=True), 1)]
    assert levels.index(1) <= 4


def test_halvings_keep_their_distance():
    cells = [
        i for i, (a, b) in enumerate(pairwise(path_to(plant(SearchSpace(), [(6, 1), (7, 2)]), 2))) if b.level > a.level
    ]
    assert cells[1] - cells[0] >= 3


@pytest.mark.parametrize("ends", [(2, 0), (2, 1)])
def test_a_decoded_plan_builds_runs_and_comes_back_from_json(ends):
    space = SearchSpace(layers=9, expansions=(4, 8), student_stem=4, student_head=8, teacher_stem=8, size=32)
    plan = decode(plant(space, [(3, 1), (6, 2)], skips=(2, 5)), ends, "found", "test")
    assert NetworkPlan.model_validate_json(plan.model_dump_json()) == plan
    assert [branch[-1].scale for branch in plan.branches] == [2 * 2**end for end in ends]
    assert NASBraNet(plan)(torch.randn(1, 2, 32, 32)).shape == (1, 2, 32, 32)


def test_branches_share_until_they_part_and_never_the_last_cell():
    space = SearchSpace()
    plan = decode(plant(space, [(4, 1), (9, 2)]), (2, 1), "found", "test")
    assert plan.shared == 9, "both halve in cell 4, and part in cell 9"
    plan = decode(plant(space, [(4, 1), (9, 2)]), (2, 0), "found", "test")
    assert plan.shared == 4
    network = NASBraNet(plan)
    assert len(network.shared) == 4, "a shared cell is one module"
    assert [len(branch.cells) for branch in network.branches] == [12, 12]


def test_a_skip_that_both_branches_had_to_keep_is_shared_as_what_it_became():
    plan = decode(plant(SearchSpace(), [(4, 1), (9, 2)], skips=(5, 6, 7, 8)), (2, 1), "found", "test")
    assert [cell.op for cell in plan.branches[0][4:7]] == [Op.CONV] * 3, "a halving, what stays behind it, a halving"
    assert [cell.scale for cell in plan.branches[0][4:7]] == [4, 4, 8]
    assert plan.shared == 6, "three of the nine could go"


def test_skips_go_but_enough_cells_stay():
    space = SearchSpace()
    plan = decode(plant(space, [(4, 1), (9, 2)], skips=range(1, 16)), (2, 0), "found", "test")
    coarse, fine = plan.branches
    assert len(coarse) == round(16 / 3) + 4
    assert len(fine) == round(16 / 3)
    for branch in plan.branches:
        for a, b in pairwise((None, *branch)):
            assert b.op is not Op.SKIP or (a is not None and b.scale > a.scale), "what stays works, or halves"
    for a, b in pairwise(coarse):
        if b.scale > a.scale:
            behind = [c for c in coarse[coarse.index(b) :] if c.scale == b.scale]
            assert len(behind) >= 2, "a cell works behind every halving"


def test_a_teacher_never_skips_and_is_always_widest():
    plan = decode(plant(SearchSpace(), [(4, 1), (9, 2)], skips=range(16), teacher=True), (2, 1), "teacher", "test")
    assert {cell.expansion for branch in plan.branches for cell in branch} == {48}
    assert Op.SKIP not in {cell.op for branch in plan.branches for cell in branch}
    assert plan.stem_expansion == plan.head_expansion == 48


def test_widths_are_the_likeliest():
    space = SearchSpace()
    student = plant(space, [(4, 1), (9, 2)])
    with torch.no_grad():
        student.gamma[..., 3] = 2.0
    plan = decode(student, (2, 0), "found", "test")
    assert {cell.expansion for branch in plan.branches for cell in branch[:-1]} == {40}
    assert [branch[-1].expansion for branch in plan.branches] == [32, 32], "the head's own"
