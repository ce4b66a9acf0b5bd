"""`evaluate` on folders as other people make them: one bad case costs nobody else's figures."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from models import frame, provenance
from models.engine import Model
from models.json_file import write_json
from models.nasbranet import __main__ as command
from models.nasbranet import evaluate as judging
from models.nasbranet.evaluate import CaseJudged
from models.nasbranet.export import export_onnx
from models.nasbranet.network import NASBraNet
from models.nasbranet.plan import PLANS
from models.refine import Refinement, expected_dice
from models.training import data
from models.training.judge import network_view
from tests.models.test_training import small_plan


@pytest.fixture
def evaluate(folder, tmp_path):
    """Judge the folder's cases by a small network; returns what was written, and what was said."""
    weights = tmp_path / "small" / "model.onnx"
    export_onnx(NASBraNet(small_plan()).eval(), weights)

    def run(*more):
        words = ["evaluate", "--data", folder, "--weights", weights, "--json", tmp_path / "result.json"]
        done = CliRunner().invoke(command.app, [str(w) for w in (*words, "--cache", tmp_path / "cache", *more)])
        if done.exception:
            raise done.exception
        return json.loads((tmp_path / "result.json").read_text()), done.output

    return run


def labelled(folder, **columns):
    """Write the cases' labels with some columns changed; None drops one."""
    names = {"case": "case{}", "patient": "patient{}", "has_t1c": "True", **columns}
    names = {column: value for column, value in names.items() if value is not None}
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([names, *([value.format(i) for value in names.values()] for i in range(3))])


def break_mask(case):
    Image.fromarray(np.zeros((64, 32), np.uint8)).save(case / "002_mask.png")


def break_image(case):
    (case / "001.webp").write_bytes(b"no image")


def take_away(case):
    for path in case.iterdir():
        path.unlink()
    case.rmdir()


BAD = [
    (break_mask, r"case1/002_mask.png has 64 x 32 pixels, 000.webp 256 x 256"),
    (break_image, "case1/001.webp cannot be read as an image"),
    (take_away, "case1 holds no NNN.webp slices"),
]


@pytest.mark.parametrize(("spoil", "reason"), BAD)
def test_a_case_that_cannot_be_judged_is_named_and_the_others_are_judged(evaluate, folder, spoil, reason):
    spoil(folder / "case1")
    found, said = evaluate()
    assert found["failed"] == {"case1": reason}
    assert f"not judged: case1: {reason}" in said
    assert set(found["cases"]) == {"case0", "case2"}
    assert found["dice_mean"] == pytest.approx(np.mean(list(found["patients"].values())))


def test_where_no_brain_is_seen_the_case_is_named_and_the_others_are_judged(evaluate, monkeypatch):
    seen = []

    def second_fails(stack, spacing):
        seen.append(stack)
        if len(seen) in (2, 3, 4):  # of the second case: T1C, T1, FLAIR
            raise frame.BrainNotFound("nothing there")
        return stack > 20

    monkeypatch.setattr(frame, "brain_mask", second_fails)
    found, _ = evaluate()
    assert found["failed"] == {"case1": "T1C, T1, FLAIR: nothing there"}
    assert set(found["cases"]) == {"case0", "case2"}


def test_without_a_case_that_can_be_judged_the_first_reason_is_told(evaluate, folder):
    for name in ("case0", "case1", "case2"):
        break_image(folder / name)
    with pytest.raises(command.data.DataError, match=r"no case could be judged; case0: case0/001.webp"):
        evaluate()


def test_cases_without_t1c_have_figures_of_their_own_also_where_there_are_no_others(evaluate, folder):
    labelled(folder, has_t1c="no")
    found, said = evaluate()
    assert found["dice_mean"] is None
    assert set(found["without_t1c"]) == {"case0", "case1", "case2"}
    alone = found["without_t1c_summary"]
    assert alone["dice_mean"] == pytest.approx(np.mean(list(found["without_t1c"].values())))
    assert "without T1C: Dice" in said
    assert set(found["confidence"]) == set(found["without_t1c"])


def test_each_case_has_the_dice_expected_of_it_and_whether_the_node_would_warn(evaluate, monkeypatch, tmp_path):
    settings = tmp_path / "r.json"
    settings.write_text('{"low": 0.4, "expected": [0.1, 0.9], "observed": [0.2, 0.8], "doubtful": 0.5, "patients": 9}')
    answers = iter([CaseJudged(0.9, 0.7), CaseJudged(0.3, 0.4), CaseJudged(0.0, None)])
    monkeypatch.setattr(judging, "judge_case", lambda *_: next(answers))
    found, _ = evaluate("--refinement", settings)
    assert [case["warned"] for case in found["confidence"].values()] == [False, True, True]
    assert [case["expected_dice"] for case in found["confidence"].values()] == [0.7, 0.4, None]


def test_confidence_is_the_nodes(folder, tmp_path):
    """Of the map on the slices' own grid, before anything is dropped, and of what is kept."""
    weights = tmp_path / "sure" / "model.onnx"
    torch.manual_seed(0)
    network = NASBraNet(small_plan()).eval()
    with torch.no_grad():
        network.head[-1].weight *= 60.0
    export_onnx(network, weights)
    model, settings = Model("sure", weights), Refinement(low=0.3, high=0.4, expected=(0.0, 1.0), observed=(0.2, 0.7))
    prepared = data.prepare(data.read_cases(folder)[0], tmp_path / "cache")
    stack_map = frame.from_frame(model.run_slices(network_view(prepared)), prepared.placement, 256, 256)
    kept = settings.mask(stack_map, (data.ASSUMED_SLICE_MM, *prepared.placement.pixel_mm))
    assert kept.any()
    told = judging.judge_case(model, settings, prepared).expected_dice
    assert told == pytest.approx(np.interp(expected_dice(stack_map, kept), [0.0, 1.0], [0.2, 0.7]), abs=0.02)
    assert 0.2 < told < 0.7


def test_whoever_taught_the_network_is_warned_of(evaluate, folder, tmp_path, monkeypatch):
    version = evaluate()[0]["version"]
    monkeypatch.setattr(provenance.taught_network, "__defaults__", (tmp_path / "cards",))
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "nasbranet.md").write_text(f"version `{version}`")
    write_json(tmp_path / "cards" / "nasbranet.crossval.json", {"patients": {"patient2": 0.9, "another": 0.8}})
    found, said = evaluate()
    assert found["seen_in_training"] == ["patient2"]
    assert found["warning"].startswith("1 of 3 patients taught this network")
    assert "warning: 1 of 3 patients" in said
    taught = {"patients": {"another": 0.8}, "taught_by_flair": ["patient0"]}
    write_json(tmp_path / "cards" / "nasbranet.crossval.json", taught)
    labelled(folder, has_t1c="no")
    assert evaluate()[0]["seen_in_training"] == ["patient0"], "who taught by FLAIR alone, too"
    labelled(folder)
    write_json(tmp_path / "cards" / "nasbranet.crossval.json", {"patients": {"another": 0.8}})
    assert evaluate()[0]["warning"] is None
    (tmp_path / "cards" / "nasbranet.md").write_text("of another")
    assert "nothing tells whom network" in evaluate()[0]["warning"]
    write_json(tmp_path / "split.json", {"training": ["case0"], "validation": ["case1", "case2"]})
    assert evaluate("--split", tmp_path / "split.json")[0]["warning"] is None, "one's own network: the split tells"


def test_post_processing_that_is_not_there_is_refused(evaluate, tmp_path):
    with pytest.raises(command.data.DataError, match="no post-processing at"):
        evaluate("--refinement", tmp_path / "typo.json")


@pytest.mark.parametrize("content", ["{}", "no JSON", '["case0"]'])
def test_a_file_that_is_no_split_is_told_as_such(evaluate, tmp_path, content):
    (tmp_path / "split.json").write_text(content)
    with pytest.raises(command.data.DataError, match=r"is no training's split\.json"):
        evaluate("--split", tmp_path / "split.json")


WRONG = [
    (
        ["draw", "--plan", "nope", "--to", "x.png"],
        f"no plan nope: neither a JSON file nor one of {min(PLANS.iterdir()).stem}",
    ),
    (["draw", "--plan", "{bad}", "--to", "x.png"], "NetworkPlan: name: Field required"),
    (["evaluate", "--data", "{home}", "--json", "x.json", "--refinement", "{bad}"], "bad.json: low: "),
]


@pytest.mark.parametrize(("words", "told"), WRONG)
def test_what_the_user_can_mend_is_told_in_one_line(words, told, folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "bad.json").write_text('{"low": 3}')
    filled = [word.format(bad=tmp_path / "bad.json", home=folder) for word in words]
    monkeypatch.setattr("sys.argv", ["nasbranet", *filled])
    with pytest.raises(SystemExit) as ended:
        command.run()
    assert ended.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(lines) == 1
    assert lines[0].startswith(f"error: {told}")


def test_the_post_processing_is_what_the_node_has_for_the_networks_name(evaluate, tmp_path, monkeypatch):
    found, said = evaluate()
    assert "no post-processing was chosen for small (small.refinement.json)" in said
    assert found["refinement"] == Refinement().model_dump(exclude={"expected", "observed"})
    own = Refinement(low=0.25, high=0.5, smallest_ml=0.5)
    monkeypatch.setattr("models.refine.REFINEMENT", tmp_path / "nasbranet.refinement.json")
    (tmp_path / "small.refinement.json").write_text(own.model_dump_json())
    found, said = evaluate()
    assert "no post-processing" not in said
    assert found["refinement"] == own.model_dump(exclude={"expected", "observed"})
