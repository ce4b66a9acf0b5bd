"""The lattice, its slimmable operators, and what is learnt of it."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F

from models.nasbranet.architecture import Architecture, one_hot
from models.nasbranet.plan import Op
from models.nasbranet.slimmable import SlimConvolution, SlimReduce, SlimZoom, build_slim_op
from models.nasbranet.space import OPS, SCALES, Node, SearchSpace
from models.nasbranet.supernet import HEADS, Supernet

SMALL = SearchSpace(layers=6, expansions=(4, 8), student_stem=4, student_head=8, teacher_stem=8, size=32)


def test_the_thesis_lattice_has_its_published_size():
    space = SearchSpace()
    assert len(space.cells) == 45
    assert len(space.moves) == 74
    assert Counter(node.level for node in space.cells) == {0: 16, 1: 15, 2: 14}
    joints = [node for node, moves in space.feeders.items() if len(moves) == 2]
    assert Counter(node.level for node in joints) == {1: 14, 2: 13}
    assert {space.channels(Node(3, level), w) for level in range(3) for w in range(5)} == {
        chi * s for chi in (16, 24, 32, 40, 48) for s in SCALES
    }


@pytest.mark.parametrize(
    "wrong",
    [{"layers": 3}, {"expansions": (8, 4)}, {"student_head": 12}, {"teacher_stem": 100}, {"size": 100}],
)
def test_an_impossible_space_is_refused(wrong):
    with pytest.raises(ValidationError):
        SearchSpace(**(SMALL.model_dump() | wrong))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("entering", "width"), [(4, 0), (6, 1), (8, 1)])
def test_every_slimmable_operator_gives_the_width_that_was_asked(op, stride, entering, width):
    made = build_slim_op(op, 8, [6, 10], stride)
    out = made(torch.randn(2, entering, 16, 12), width)
    assert out.shape == (2, (6, 10)[width], 16 // stride, 12 // stride)


def test_a_slimmable_convolution_is_a_plain_one_at_each_width():
    slim = SlimConvolution(8, [4, 6]).eval()
    x = torch.randn(2, 5, 9, 9)
    for width, channels in enumerate((4, 6)):
        plain = torch.nn.Conv2d(5, channels, 3, padding=1, bias=False)
        plain.weight.data = slim.weight.data[:channels, :5]
        assert torch.allclose(slim(x, width), F.relu(slim.norms[width](plain(x))), atol=1e-6)


def test_each_width_has_statistics_of_its_own():
    slim = SlimConvolution(4, [4, 6]).train()
    slim(5.0 + torch.randn(4, 4, 8, 8), 1)
    assert slim.norms[0].running_mean.eq(0).all()
    assert not slim.norms[1].running_mean.eq(0).all()


def test_zoom_keeps_odd_sizes_and_reduce_halves():
    assert SlimZoom(4, [4], 1, 2)(torch.randn(1, 4, 9, 7), 0).shape == (1, 4, 9, 7)
    assert SlimReduce(4, [5])(torch.randn(1, 4, 8, 6), 0).shape == (1, 5, 4, 3)


def test_gumbel_rows_are_one_hot_and_carry_a_gradient():
    logits = torch.tensor([0.0, 2.0, 0.0], requires_grad=True)
    generator = torch.Generator().manual_seed(0)
    rows = [one_hot(logits, generator, 1.0) for _ in range(300)]
    for row in rows:
        assert sorted(row.detach().tolist()) == pytest.approx([0.0, 0.0, 1.0], abs=1e-6)
    drawn = torch.stack(rows).detach().mean(dim=0)
    assert drawn.tolist() == pytest.approx(torch.softmax(logits, 0).tolist(), abs=0.08)
    rows[0].max().backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0


def test_widths_are_fixed_random_or_drawn_for_every_node():
    student = Architecture(SMALL, searches_width=True)
    generator = torch.Generator().manual_seed(1)
    wanted = {*SMALL.cells[1:], *SMALL.outputs}
    for widths in (student.fixed(0), student.random(generator), student.sample(generator), student.likeliest()):
        assert wanted <= widths.index.keys()
        assert all(widths.index[end] == 1 for end in SMALL.outputs), "the head's width"
    assert set(student.sample(generator).factor) == set(SMALL.cells[1:])
    teacher = Architecture(SMALL, searches_width=False)
    assert set(teacher.sample(generator).index.values()) == {1}, "a teacher is never narrow"


@pytest.fixture(scope="module")
def supernet():
    torch.manual_seed(0)
    return Supernet(SMALL)


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_every_head_answers_and_everything_learns(supernet, role):
    architecture = getattr(supernet, role)
    supernet.zero_grad()
    widths = architecture.sample(torch.Generator().manual_seed(0))
    logits = supernet(torch.randn(2, 2, 32, 48), architecture, widths)
    assert [tuple(x.shape) for x in logits] == [(2, 2, 16, 24)] * len(HEADS)
    torch.stack([x.square().mean() for x in logits]).sum().backward()
    for name in ("alpha", "beta") + (("gamma",) if role == "student" else ()):
        assert getattr(architecture, name).grad.abs().sum() > 0, name
    other = supernet.student if role == "teacher" else supernet.teacher
    assert all(p.grad is None for p in other.parameters())


def test_a_node_is_the_weighted_sum_of_its_feeders(supernet):
    """Equation 4-3 by hand, on one node with two feeders."""
    supernet.eval()
    teacher = supernet.teacher
    maps = {}
    hooks = [
        module.register_forward_hook(lambda _, args, out, name=name: maps.__setitem__(name, (args, out)))
        for name, module in supernet.cells.items()
    ]
    with torch.no_grad():
        supernet(torch.randn(1, 2, 32, 32), teacher, teacher.fixed(1))
    for hook in hooks:
        hook.remove()
    entering = maps["2_1_1"][0][0]  # what the cell at node (2, 1) took in
    above, beside = maps["1_0_1"][1], maps["1_1_1"][1]
    weights = teacher.ways_in(Node(2, 1))
    assert torch.allclose(entering, weights[0] * above + weights[1] * beside, atol=1e-6)


def test_a_skip_alone_leaves_the_other_operators_out(supernet):
    supernet.eval()
    mixed = supernet.cells["2_0_0"]
    x = torch.randn(1, 8, 16, 16)
    with torch.no_grad():
        only = mixed(x, 1, torch.tensor([float(op is Op.SKIP) for op in OPS]))
        assert torch.allclose(only, mixed.candidates[OPS.index(Op.SKIP)](x, 1))
