"""Lines of JSON name the job; lines of no form say what another library's error says."""

from __future__ import annotations

import json
import logging
import os
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


FAILING = """
import logging, multiprocessing, os, sys, threading
from rich.console import Console
from rich.logging import RichHandler
from app.log import ToldByPlace, set_up_log

class Fails:
    def __del__(self):
        raise ValueError("removed DOE^JANE")

@ToldByPlace()
def child(form):
    start(form)
    raise ValueError("child DOE^JANE")

def start(form):
    # As `serve` does, and as the other processes do.
    rich = RichHandler(console=Console(stderr=True, width=400), show_path=False) if form == "rich" else None
    set_up_log("json" if form == "json" else "text", rich)

def fail(error):
    raise error

if __name__ == "__main__":
    form = sys.argv[1]
    start(form)
    library = logging.getLogger("some.library")
    try:
        fail(KeyError("DOE^JANE"))
    except KeyError as error:
        record = logging.LogRecord("some.library", logging.ERROR, "", 0, "it failed", (), sys.exc_info())
        logging.Formatter().format(record)  # leaves the whole text in the record
        library.handle(record)
        library.error(error)
        library.error("with argument %s", error)
        library.error("broken %d", "DOE^JANE")
        logging.getLogger("pynetdicom.acse").error("of a peer: DOE^JANE")
    thread = threading.Thread(target=fail, args=(ValueError("thread DOE^JANE"),), name="worker-1")
    thread.start()
    thread.join()
    threading.Thread(target=sys.exit).start()
    Fails()
    process = multiprocessing.get_context("spawn").Process(target=child, args=(form,))
    process.start()
    process.join()
    logging.getLogger("app.test").error("status %d", process.exitcode)
    fail(ValueError("process DOE^JANE"))
"""


@pytest.mark.parametrize("form", ["json", "text", "rich"])
def test_no_form_of_the_log_says_what_an_error_says_however_it_ends(form, tmp_path):
    script = tmp_path / "failing.py"
    script.write_text(FAILING)
    done = subprocess.run(
        [sys.executable, script, form],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "DOE" not in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    told = [
        "it failed",
        "KeyError",
        "with argument KeyError",
        "some.library is not in the log: TypeError at",
        "worker-1 ended: ValueError at",
        "ignored: ValueError at",
        "the process ends: ValueError at",
        "status 1",
        "failing.py:",
    ]
    assert [text for text in told if text not in done.stderr] == []
    assert done.stderr.count("the process ends: ValueError at") == 2, "the child's end, and its parent's"
    assert done.stderr.count(" ended: ") == 1, "sys.exit in a thread is no failure"


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
