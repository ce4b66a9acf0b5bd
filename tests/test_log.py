"""JSON lines name the job, and never what another library's error says."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest

from app.log import JsonLines
from operators.job_log import at_work_on
from tests.support_study import ROOT

JOB = "0123456789abcdef" * 2


@pytest.fixture
def lines():
    """A logger whose lines are read back."""
    found = []

    class Keep(logging.Handler):
        def emit(self, record):
            found.append(json.loads(JsonLines().format(record)))

    logger = logging.getLogger("tests.log")
    logger.propagate = False
    handler = Keep()
    logger.addHandler(handler)
    yield logger, found
    logger.removeHandler(handler)


def test_a_line_names_the_job_that_its_message_is_of(lines):
    logger, found = lines
    logger.warning("job %s failed: %s", JOB, "FLAIR has no\ncandidate")
    (line,) = found
    assert (line["job"], line["level"], line["logger"]) == (JOB, "warning", "tests.log")
    assert line["message"].endswith("no\ncandidate")
    assert line["time"].endswith("+00:00")


def test_a_line_of_a_library_names_the_job_that_the_thread_is_at_work_on(lines):
    logger, found = lines
    with at_work_on(JOB):
        logger.warning("a library warns")
    logger.warning("a library warns")
    assert [line.get("job") for line in found] == [JOB, None]


def test_an_exception_is_its_type_and_place_alone(lines):
    logger, found = lines
    try:
        raise KeyError("DOE^JANE")
    except KeyError:
        logger.exception("it failed")
    assert found[0]["error"] == "KeyError"
    assert "test_log.py:" in found[0]["place"]
    assert "DOE" not in json.dumps(found)


def test_what_the_receivers_process_loads_stays_light():
    code = (
        "import app.receiver, app.cli, sys; print([m for m in ('sqlalchemy', 'holoscan', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("style", ["json", "text"])
def test_warnings_of_python_are_told_by_kind_and_place_alone(style):
    code = (
        f"import warnings, logging; from app.log import set_up_log; set_up_log({style!r});"
        "warnings.warn('Invalid value: DOE^JANE'); logging.getLogger('pydicom').error('DOE^JANE');"
        "logging.getLogger('x').info('new')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    assert "UserWarning at <string>:1" in lines[0]
    assert "DOE" not in done.stderr
    if style == "json":
        assert [json.loads(line)["logger"] for line in lines] == ["app.log", "x"]
