"""The commands of the search: every setting an option, and faults told in a line that names them."""

from __future__ import annotations

import sys
from dataclasses import asdict

import pytest
from typer.testing import CliRunner

from models.nasbranet import __main__ as command
from models.nasbranet import search_command
from models.nasbranet.latency import PenaltyWeights
from models.nasbranet.latency_table import LatencyTable, keys_of
from models.nasbranet.search_settings import SearchSettings
from models.training import data
from tests.models.support_search import SPACE, slow_convolutions

ARGUMENTS = ["--layers", "6", "--expansions", "4,8", "--ends", "4,8,8"]


def call(monkeypatch, capsys, *arguments):
    """The command line as a shell runs it: (status, what it says)."""
    monkeypatch.setattr(sys, "argv", ["nasbranet", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        command.run()
    return ended.value.code, capsys.readouterr().err


def test_every_setting_is_an_option_of_the_command(folder, tmp_path, monkeypatch):
    slow_convolutions().save(tmp_path / "t.json")
    asked = []

    def search(space, groups, table, settings, out):
        asked.append((space, settings))
        raise data.DataError("far enough")

    monkeypatch.setattr(search_command, "make_groups", lambda *_: None)
    monkeypatch.setattr(search_command, "Search", search)
    always = ["search", "--data", folder, "--out", tmp_path / "o", "--table", tmp_path / "t.json", *ARGUMENTS]
    given = {
        "warm_up": (3, "3"), "epochs": (4, "4"), "steps": (5, "5"), "batch": (6, "6"), "scale": (0.5, "0.5"),
        "target_ms": (7.0, "7"), "exponent": (-0.1, "-0.1"), "time_weight": (0.2, "0.2"), "seed": (8, "8"),
        "penalty": (PenaltyWeights(0.2, 0.3, 0.5), "0.2,0.3,0.5"), "hold_fps": ((155.0, 175.0), "155,175"),
        "temperature": ((5.0, 0.5), "5,0.5"), "weight_rate": ((0.3, 0.1), "0.3,0.1"), "rate_decay": (0.9, "0.9"),
        "architecture_rate": (0.001, "0.001"), "momentum": (0.8, "0.8"), "weight_decay": (1e-3, "0.001"),
        "gradient_limit": (2.0, "2"), "adam_betas": ((0.9, 0.99), "0.9,0.99"), "empty_share": (0.4, "0.4"),
    }  # fmt: skip
    options = [word for name, (_, text) in given.items() for word in (f"--{name.replace('_', '-')}", text)]
    for arguments in (always, [*always, *options]):
        CliRunner().invoke(command.app, [str(a) for a in arguments])
    assert asked[0] == (SPACE, SearchSettings())
    assert asked[1] == (SPACE, SearchSettings(**{name: value for name, (value, _) in given.items()}))
    assert given.keys() == asdict(SearchSettings()).keys()
    larger = SPACE.model_copy(update={"size": 256})
    LatencyTable({"device": "test"}, dict.fromkeys(keys_of(larger), 1.0)).save(tmp_path / "t.json")
    CliRunner().invoke(command.app, [str(a) for a in (*always, "--size", 256)])
    assert asked[2] == (larger, SearchSettings())


MALFORMED = [
    ("--expansions", "a,b", "whole numbers with commas between, as 16,24,32,40,48"),
    ("--expansions", "", "whole numbers with commas between, as 16,24,32,40,48"),
    ("--ends", "16,32", "whole numbers with commas between, as 16,32,48"),
    ("--ends", "4,8,8.5", "whole numbers with commas between, as 16,32,48"),
    ("--penalty", "1", "numbers with commas between, as 0.001,0.997,0.002"),
    ("--penalty", "1,2,x", "numbers with commas between, as 0.001,0.997,0.002"),
    ("--hold-fps", "155", "numbers with commas between, as 155,175"),
    ("--temperature", "5", "numbers with commas between, as 5,0.5"),
    ("--weight-rate", "0.1", "numbers with commas between, as 0.02,0.01"),
    ("--adam-betas", "0.5", "numbers with commas between, as 0.5,0.999"),
]


@pytest.mark.parametrize(("option", "given", "told"), MALFORMED)
def test_numbers_of_another_form_are_refused_in_a_line_that_names_the_option(
    option, given, told, folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(search_command, "make_groups", lambda *_: pytest.fail("went on"))
    slow_convolutions().save(tmp_path / "t.json")
    arguments = ["search", "--data", folder, "--out", tmp_path / "o", "--table", tmp_path / "t.json", *ARGUMENTS]
    status, said = call(monkeypatch, capsys, *arguments, option, given)
    assert (status, said.splitlines()) == (2, [f"error: {option} is {told}; not {given!r}"])


def test_a_latency_table_can_be_made_for_another_image_size(tmp_path, monkeypatch):
    asked = []

    def keys(space):
        asked.append(space)
        raise data.DataError("far enough")

    monkeypatch.setattr(search_command, "keys_of", keys)
    for size in ([], ["--size", "64"]):
        CliRunner().invoke(command.app, ["latency-table", "--to", str(tmp_path / "t.json"), *size, *ARGUMENTS])
    assert asked == [SPACE, SPACE.model_copy(update={"size": 64})]


def test_a_table_that_lacks_a_shape_is_refused_before_anything_is_prepared(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(search_command, "make_groups", lambda *_: pytest.fail("went on without the table"))
    table, kept = tmp_path / "t.json", slow_convolutions()
    lost = max(kept.entries)
    LatencyTable(kept.device, {k: ms for k, ms in kept.entries.items() if k != lost}).save(table)
    arguments = ["search", "--data", folder, "--out", tmp_path / "o", "--table", table]
    status, said = call(monkeypatch, capsys, *arguments, *ARGUMENTS)
    assert status == 2
    assert said.splitlines() == [
        f"error: {table} lacks 1 of {len(kept.entries)} shapes of this space, as {lost}; "
        "run `latency-table` with the same --layers, --expansions, --ends and --size"
    ]
    assert not (tmp_path / "o").exists()
    status, said = call(monkeypatch, capsys, *arguments, "--layers", "6", "--expansions", "8", "--ends", "8,8,8")
    assert (status, "shapes of this space" in said) == (2, True), "a table of another space altogether"


def test_a_gpus_table_that_was_timed_launch_by_launch_is_refused(folder, tmp_path, monkeypatch, capsys):
    table = LatencyTable({"device": "GPU", "backend": "torch 2 eager, CUDA events"}, slow_convolutions().entries)
    table.save(tmp_path / "t.json")
    arguments = ["search", "--data", folder, "--out", tmp_path / "o", "--table", tmp_path / "t.json"]
    status, said = call(monkeypatch, capsys, *arguments, *ARGUMENTS)
    assert (status, "was timed launch by launch" in said) == (2, True)


@pytest.mark.parametrize("content", ["no JSON", "[]", '{"device": {}}', '{"device": {}, "entries": [["conv", "x"]]}'])
def test_a_file_that_is_no_table_is_named(content, folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "t.json").write_text(content)
    arguments = ["search", "--data", folder, "--out", tmp_path / "o", "--table", tmp_path / "t.json"]
    status, said = call(monkeypatch, capsys, *arguments, *ARGUMENTS)
    assert (status, said.splitlines()) == (
        2, [f"error: {tmp_path}/t.json is no latency table; make one by `latency-table`"],
    )  # fmt: skip
