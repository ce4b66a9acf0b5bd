"""The command line as its user meets it: each call a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from app.cli import STAGES, _show
from app.phantom import PhantomOptions, make_phantom
from app.summary import describe_job
from models.markers.influence import GROUPS
from operators.domain import Contrast, Marker, MarkerName, MarkerValue
from operators.report_words import WORDS
from tests.support_results import job_of
from tests.support_study import ROOT, phantom

SMALL = {"slices": 12, "rows": 96, "columns": 96, "pixel_mm": 2.4, "spacing_mm": 11.0, "thickness_mm": 10.0}


def run(*arguments, cwd=ROOT, timeout=None):
    command = [sys.executable, "-m", "app", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=timeout)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return phantom(tmp_path_factory.mktemp("cli"), "study").folder


@pytest.fixture(scope="module")
def processed(study, tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    return out, run("process", study, "--out", out, "--json")


def test_process_gives_its_contract_as_json(processed):
    out, done = processed
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found["chosen"]) == set(Contrast)
    assert all(entry["reason"] for entry in found["chosen"].values())
    assert found["volumes_ml"]["tumour"] > 10
    assert found["segmenter"]["engine"].startswith(("OpenVINO", "tensorrt"))
    assert found["diameters_mm"]["long"] >= found["diameters_mm"]["short"] > 0
    low, high = found["ranges"]["tumour_ml"]
    assert low < found["volumes_ml"]["tumour"] < high
    assert found["parts"] >= 1
    markers = found["markers"]
    assert set(markers) == {"idh", "1p19q", "mgmt", "proliferation"}
    assert all(m["reason"] for m in markers.values())
    assert all((m["value"] == "not assessed") == (m["probability"] is None) for m in markers.values())
    assert markers["idh"]["model"] == "idh figures"
    assert set(markers["idh"]["times_the_odds"]) == set(GROUPS)
    assert all(factor > 0 for factor in markers["idh"]["times_the_odds"].values())
    assert markers["mgmt"]["times_the_odds"] == {}, "nothing moves an answer that is not given"
    assert markers["mgmt"]["value"] == markers["mgmt"]["said"] == "not assessed"
    assert "better than chance" in markers["mgmt"]["reason"]
    assert found["reading"].endswith(".")
    assert {"load", "select", "volumes", "preprocess", "segment", "write SEG", "write SR", "write PDF"} <= set(
        found["seconds"]
    )
    assert len(found["seconds"]) == STAGES, "the bar of progress ends where the work does"
    (looked,) = found["attention"]
    assert (looked["marker"], looked["network"], len(looked["slices"])) == ("idh", "idh resnest-mix (light)", 3)
    names = [
        "attention_idh.dcm",
        "attention_idh.png",
        "key_image.dcm",
        "key_image.png",
        "measurements.dcm",
        "report.pdf.dcm",
        "seg_flair.dcm",
        "seg_t1c.dcm",
        "sr.dcm",
    ]
    assert sorted(p.name for p in out.iterdir()) == names


def test_verify_passes_what_process_wrote_and_fails_what_is_left_of_it(processed, tmp_path):
    done = run("verify", processed[0], "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 0, found
    assert {row["outcome"] for row in found["judgements"]} == {"passed"}
    shutil.copy(processed[0] / "sr.dcm", tmp_path)
    done = run("verify", tmp_path)
    assert done.returncode == 1
    assert "not here" in " ".join(done.stdout.split())


def test_explain_gives_the_chosen_series(study):
    done = run("explain", study, "--json")
    assert set(json.loads(done.stdout)["chosen"]) == set(Contrast)
    shown = run("explain", study)
    assert shown.returncode == 0
    assert "FLAIR" in shown.stdout


def test_a_truncated_file_is_one_clear_line_and_leaves_nothing(tmp_path):
    make_phantom(tmp_path / "study", PhantomOptions(**SMALL))
    victim = sorted((tmp_path / "study").glob("*.dcm"))[7]
    victim.write_bytes(victim.read_bytes()[:-3000])
    done = run("process", tmp_path / "study", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert victim.name in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "out").iterdir())


WRONG = [
    (["process", "/nowhere", "--out", "{tmp}"], "is not a folder"),
    (["explain", "/nowhere"], "is not a folder"),
    (["explain", "{tmp}"], "no DICOM"),
    (["verify", "/nowhere"], "is not a folder"),
    (["verify", "{tmp}"], "no DICOM result objects"),
    (["send", "{tmp}", "--to", "PACS@localhost:1"], "no files"),
    (["send", str(ROOT / "models"), "--to", "nonsense"], "AE_TITLE@host:port"),
    (["serve", "--config", "/nowhere.yaml"], "no settings file"),
]


@pytest.mark.parametrize(("arguments", "reason"), WRONG)
def test_wrong_input_is_one_line_and_status_2(arguments, reason, tmp_path):
    done = run(*[a.format(tmp=tmp_path) for a in arguments])
    assert done.returncode == 2
    assert reason in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_taken_port_ends_the_node_with_one_line(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        receiver = {"host": "127.0.0.1", "port": other.getsockname()[1]}
        config = tmp_path / "node.yaml"
        config.write_text(json.dumps({"node": {"data_dir": str(tmp_path / "data"), "receiver": receiver}}))
        done = run("serve", "--config", config, timeout=180)
    assert done.returncode == 2
    assert "cannot listen" in done.stderr
    assert "Traceback" not in done.stderr


def test_doctor_names_what_is_wrong_and_the_remedy(tmp_path):
    config = tmp_path / "app.yaml"
    config.write_text(
        json.dumps({"node": {"data_dir": str(tmp_path / "data"), "models_dir": str(tmp_path), "receiver": {"port": 0}}})
    )
    done = run("doctor", "--config", config)
    text = " ".join(done.stdout.split())
    assert done.returncode == 2
    assert "missing" in text
    assert "nobody may send" in text


def test_help_lists_every_command():
    text = run("--help").stdout
    for command in ("serve", "process", "explain", "verify", "send", "queue", "demo", "doctor", "conformance"):
        assert command in text


def test_the_command_line_says_of_markers_what_the_page_says(tmp_path, capsys):
    said = {
        MarkerName.IDH: (MarkerValue.UNALTERED, "likely wild-type"),
        MarkerName.PROLIFERATION: (MarkerValue.ALTERED, "likely high"),
        MarkerName.MGMT: (MarkerValue.INDETERMINATE, "indeterminate"),
    }
    moved = (("age", 3.0), ("location", 0.5), ("size", 1.01))
    markers = [Marker(name, value, "by its figures", 0.5, moved_by=moved) for name, (value, _) in said.items()]
    summary = describe_job(job_of(tmp_path, markers=markers))
    _show(summary)
    printed = capsys.readouterr().out
    told = "  by its figures\n  the odds are moved most by age ×3, location ×0.5\n"
    for name, (value, words) in said.items():
        assert f"{name}: {words}, probability 0.50\n{told}" in printed
        assert summary["markers"][name]["value"] == value, "for scripts"
        assert words == WORDS["en"].value_of(name, value).lower()


def test_a_user_without_a_home_folder_can_run_it():
    """As services have: CuPy, which Holoscan loads, would fail. What stands in for its cache goes with the process."""
    code = "import os, app, cupy; print(os.environ['CUPY_CACHE_DIR'], os.path.isdir(os.environ['CUPY_CACHE_DIR']))"
    bare = {name: value for name, value in os.environ.items() if name != "CUPY_CACHE_DIR"}
    command = [sys.executable, "-c", code]
    bare["HOME"] = "/proc/none"
    done = subprocess.run(command, env=bare, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    folder, there = done.stdout.split()
    assert there == "True"
    assert not Path(folder).exists()
