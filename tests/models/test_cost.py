"""What networks and operators cost: FLOPs and parameters as counted by hand, times taken in turns."""

from __future__ import annotations

from collections import namedtuple
from types import SimpleNamespace

import pytest
from torch import nn

from models.engine import ModelError
from models.nasbranet import operator_table
from models.nasbranet.cost import Speed, cost, time_files, time_models
from models.nasbranet.tables import relative_times

CONVOLUTIONS = [  # 2 x kernel x channels in x channels out x places, and the weights
    (nn.Conv2d(2, 4, 3, padding=1), 2 * 9 * 2 * 4 * 8 * 6, 9 * 2 * 4 + 4),
    (nn.Conv2d(2, 4, 3, 2, padding=1, bias=False), 2 * 9 * 2 * 4 * 4 * 3, 9 * 2 * 4),
    (nn.Conv2d(2, 4, 1, groups=2, bias=False), 2 * 1 * 4 * 8 * 6, 4),
    (nn.ConvTranspose2d(2, 4, 2, 2, bias=False), 2 * 4 * 2 * 4 * 8 * 6, 4 * 2 * 4),
]


@pytest.mark.parametrize(("layer", "flops", "parameters"), CONVOLUTIONS)
def test_costs_are_those_counted_by_hand(layer, flops, parameters):
    found = cost(layer, (1, 2, 8, 6))
    assert (found.flops, found.parameters) == (flops, parameters)
    assert layer.training


def test_speed_is_the_median_with_its_spread():
    speed = Speed((10.0, 20.0, 20.0, 30.0, 500.0))
    assert speed.median == 20.0
    assert speed.quartiles == (20.0, 30.0)
    assert speed.frames_per_second == 50.0


def test_networks_are_timed_in_turns(monkeypatch):
    called = []
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("models.nasbranet.timing.time.perf_counter", lambda: clock.now)

    class Timed:
        def __init__(self, name, seconds):
            self.name, self.seconds = name, seconds

        def run(self, image):
            assert image.shape == (1, 2, 4, 4)
            called.append(self.name)
            clock.now += self.seconds

    models = {n: Timed(n, s) for n, s in (("a", 0.001), ("b", 0.002), ("c", 0.003))}
    found = time_models(models, (1, 2, 4, 4), rounds=20)
    turns = [called[i : i + 3] for i in range(0, len(called), 3)]
    assert all(sorted(turn) == ["a", "b", "c"] for turn in turns)
    assert len({tuple(turn) for turn in turns}) > 2  # no network always follows the same one
    assert {n: round(Speed(times).median, 6) for n, times in found.items()} == {"a": 1.0, "b": 2.0, "c": 3.0}
    assert all(len(times) == 20 for times in found.values())  # the warm rounds do not count


def test_times_on_different_engines_are_refused(monkeypatch, tmp_path):
    """Where a GPU takes one network and leaves the other to the CPU."""
    opened = lambda name, path, engine, cache: SimpleNamespace(engine=f"engine of {path.name}")  # noqa: E731
    monkeypatch.setattr("models.nasbranet.cost.Model", opened)
    with pytest.raises(ModelError, match="engine of a, engine of b"):
        time_files({"one": tmp_path / "b", "two": tmp_path / "a"}, (1, 2, 4, 4), 3)


Key = namedtuple("Key", "op height width c_in c_out stride")


def test_operator_times_are_set_against_a_convolution_of_the_same_shape():
    small, large = (8, 8, 4, 4, 1), (16, 16, 4, 4, 1)
    entries = {
        Key("conv", *small): 2.0, Key("zoom", *small): 1.0, Key("conv", *large): 10.0, Key("zoom", *large): 8.0,
        Key("zoom", 99, 99, 1, 1, 2): 7.0,
    }  # fmt: skip
    assert relative_times(entries) == {"conv": (1.0, 2), "zoom": (pytest.approx(0.65), 2)}


def test_operators_cost_what_the_thesis_says_relative_to_a_convolution():
    plain, grouped, dilated, zoomed = operator_table.measure_operators(rounds=2, shape=(1, 16, 8, 8))
    assert plain.flops == 2 * 9 * 16 * 16 * 64
    assert grouped.flops == plain.flops // 2
    assert grouped.parameters == plain.parameters // 2
    assert (dilated.flops, dilated.parameters) == (plain.flops, plain.parameters)
    assert zoomed.flops == plain.flops // 4
    assert all(row.speed.median > 0 for row in (plain, grouped, dilated, zoomed))
