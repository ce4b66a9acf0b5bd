"""`python -m app queue` as its user meets it, in this process."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from app.cli import cli
from app.errors import InputError
from app.journal import JobState, Journal

RUN = CliRunner()
FAILED, DONE = "a" * 32, "b" * 32


@pytest.fixture
def config(tmp_path):
    settings = {"data_dir": str(tmp_path / "data"), "sender": {"destinations": []}}
    (tmp_path / "node.yaml").write_text(json.dumps({"node": settings}))
    return tmp_path / "node.yaml"


@pytest.fixture
def journal(tmp_path, config):
    """A node's journal, open as a running node holds it: one failed study, one with a dead letter."""
    journal = Journal(tmp_path / "data" / "journal.sqlite")
    for key, job_id in (("k1", FAILED), ("k2", DONE)):
        journal.study_arriving(key, f"1.2.{key[1]}")
        journal.job_ready(job_id, key, 4)
        journal.take_ready()
    journal.job_failed(FAILED, "missing-sequence", "FLAIR has no candidate [at all]", "select")
    journal.job_done(DONE, 1, {"pacs": ["sr.dcm"]})
    journal.not_delivered([journal.owed("pacs")[0].delivery_id], "failure 0xA900", lambda failures: 0.0, 1)
    yield journal
    journal.close()


def run(*arguments):
    return RUN.invoke(cli, ["queue", *map(str, arguments)], catch_exceptions=False, env={"COLUMNS": "160"})


def test_it_lists_what_is_not_done(config, journal):
    shown = " ".join(run("--config", config).stdout.split())
    assert "aaaaaaaaaaaa failed" in shown
    assert "missing-sequence: FLAIR has no candidate [at all]" in shown
    assert "bbbbbbbbbbbb dead" in shown
    assert "not in the settings; failure 0xA900" in shown, "no sender tries a destination that app.yaml lost"
    found = json.loads(run("--json", "--config", config).stdout)["queue"]
    assert [(entry["what"], entry["job_id"], entry["state"]) for entry in found] == [
        ("study", FAILED, "failed"),
        ("delivery", DONE, "dead"),
    ]


def test_it_shows_one_job(config, journal):
    shown = run("--config", config, "show", DONE[:8]).stdout
    assert "failure 0xA900" in shown
    assert "pacs refused sr.dcm for good" in shown
    assert json.loads(run("show", FAILED, "--json", "--config", config).stdout)["code"] == "missing-sequence"


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (FAILED[:9], "1 studies, 0 deliveries"),
        (DONE, "0 studies, 1 deliveries"),
        ("pacs", "0 studies, 1 deliveries"),
        ("--all", "1 studies, 1 deliveries"),
    ],
)
def test_it_puts_back_beside_a_running_node(config, journal, target, told):
    assert told in run("retry", target, "--config", config).stdout
    assert (journal.job(FAILED).state is JobState.READY) == ("1 studies" in told)
    assert (len(journal.due("pacs", 900.0)) == 1) == ("1 deliveries" in told)


def test_when_nothing_waits_it_says_so(config, journal):
    run("retry", "--all", "--config", config)
    journal.delivered(journal.owed("pacs")[0].delivery_id)
    journal.take_ready()
    journal.job_done(FAILED, 0, {})
    assert "nothing waits" in run("--config", config).stdout
    assert json.loads(run("--json", "--config", config).stdout) == {"queue": []}


WRONG = [
    (["retry"], "give a job id, a destination, or --all"),
    (["retry", "pacs", "--all"], "give a job id, a destination, or --all"),
    (["retry", "nowhere"], "there is no job nowhere"),
    (["show", "abc"], "there is no job abc"),
]


@pytest.mark.parametrize(("arguments", "words"), WRONG)
def test_wrong_input_is_one_line(config, journal, arguments, words):
    with pytest.raises(InputError, match=words):
        run(*arguments, "--config", config)


def test_without_a_journal_none_is_made(config, tmp_path):
    with pytest.raises(InputError, match="there is no journal"):
        run("--config", config)
    assert not (tmp_path / "data").exists()
