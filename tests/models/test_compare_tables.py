"""The comparison's tables: differences in pairs, and rows that an earlier report has."""

from __future__ import annotations

from dataclasses import replace

import pytest

from models.nasbranet.cost import Cost
from models.nasbranet.earlier import EarlierRow
from models.nasbranet.roster import Entry, ThesisFigures
from models.nasbranet.tables import Report, Row


def row(name, patients, done, **other):
    entry = Entry(name=name, label=name.upper(), make=None, tables=("4-5", "4-6"), **other)
    return Row(entry=entry, patients=patients, folds_done=done, folds=5, cost=None, speed=None)


def report_of(*rows):
    return Report(device={}, settings={}, rows=rows, operators=(), searched=None, sensitivities=None, command="run it")


def test_a_difference_is_taken_on_the_patients_both_were_judged_on():
    ours = row("nasbranet", {"p1": 0.9, "p2": 0.8, "p3": 0.1}, 5)
    shipped = row("shipped", {"p1": 0.6, "p2": 0.6, "p9": 0.9}, 5)
    other = row(
        "unet", {"p1": 0.8, "p2": 0.7, "p9": 1.0}, 2, thesis=ThesisFigures(dice_percent=75.6, frames_per_second=91.7)
    )
    report = report_of(ours, other, shipped)
    found = report.content()["table_4_5"][1]
    assert found["difference_to_nasbranet"]["mean"] == pytest.approx(-0.1)
    assert found["difference_to_shipped"]["mean"] == pytest.approx((0.2 + 0.1 + 0.1) / 3)
    assert found["dice"]["mean"] == pytest.approx(2.5 / 3)
    text = report.markdown()
    assert "| UNET | 0.833 (" in text
    assert "| -0.100 (-0.100 to -0.100) | +0.133 (+0.100 to +0.200) |" in text
    assert "75.6 %, 91.7" in text
    assert "run it --teacher PLAN --networks unet\n" in text


def test_the_cost_is_told_beside_the_speed():
    costly = replace(row("unet", {}, 0), cost=Cost(31_037_122, 73_704_931_328))
    text = report_of(costly).markdown()
    assert "| frames/s | ms (quartiles) | GFLOPs | parameters, M | resolution |" in text
    assert "| - | - | 73.70 | 31.04 | 224 x 224 |" in text


OF_BEFORE = {"mean": 0.7, "interval": [0.6, 0.8]}
APART = {"mean": -0.25, "interval": [-0.5, 0.0]}


def earlier(name, patients=(), **other):
    """A network's row as an earlier report has it: by patient, or, as older ones, only the summary."""
    summary = {"dice": OF_BEFORE, "patients": 2, "folds_done": 1, "difference_to_nasbranet": APART}
    content = {"name": name, "dice_by_patient": dict(patients), "flops": None, "parameters": None} | summary | other
    return EarlierRow.model_validate(content)


def taken(name, *arguments, **other):
    """A row of the tables that is an earlier report's."""
    kept = earlier(name, *arguments, **other)
    return replace(row(name, kept.dice_by_patient, kept.folds_done), earlier=kept)


def test_a_summary_of_an_earlier_run_keeps_its_difference_and_gives_none_to_others():
    report = report_of(taken("nasbranet"), taken("unet"), row("icnet", {"p1": 0.5}, 1))
    _, unet, icnet = report.content()["table_4_5"]
    assert (unet["dice"], unet["patients"], unet["folds_done"], unet["earlier"]) == (OF_BEFORE, 2, 1, True)
    assert (unet["difference_to_nasbranet"], unet["difference_to_shipped"]) == (APART, None)
    assert (icnet["difference_to_nasbranet"], icnet["earlier"]) == (None, False)
    text = report.markdown()
    assert "| UNET | 0.700 (0.600 to 0.800) | 2 | 1/5 (earlier run) | -0.250 (-0.500 to +0.000) | - |" in text
    assert "| UNET | 0.700 (0.600 to 0.800) | 1/5 (earlier run) |" in text, "table 4-6"
    assert "| ICNET | 0.500 (0.500 to 0.500) | 1 | 1/5 | - | - |" in text


def test_a_difference_to_a_network_that_was_trained_anew_since_is_not_told():
    _, unet = report_of(row("nasbranet", {"p1": 0.75}, 1), taken("unet")).content()["table_4_5"]
    assert unet["difference_to_nasbranet"] is None


def test_patients_of_an_earlier_run_are_paired_anew():
    ours = row("nasbranet", {"p1": 0.75, "p2": 0.75}, 1)
    _, unet, shipped = report_of(
        ours, taken("unet", {"p1": 0.5, "p2": 0.5}), taken("shipped", {"p2": 0.25, "p3": 0.5})
    ).content()["table_4_5"]
    assert unet["difference_to_nasbranet"]["mean"] == -0.25
    assert unet["difference_to_nasbranet"]["interval"] == [-0.25, -0.25]
    assert unet["difference_to_shipped"]["mean"] == 0.25, "of the one patient that both have"
    assert shipped["difference_to_nasbranet"]["mean"] == -0.5
