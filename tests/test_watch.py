"""What never ends is found: a study in the graph, the main loop, and code that lets no other thread run."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from app.watch import Hung, Watch
from operators.stage import Job
from tests.support_dicom import Clock
from tests.support_study import ROOT

JOB, LATER = Job("j1", Path(), Path()), Job("j2", Path(), Path())


@pytest.fixture
def watch():
    clock = Clock()
    made = Watch(100.0, lambda hung: None, clock)
    made.clock = clock
    yield made
    made.stop()


def test_a_job_is_overdue_after_its_time_and_only_that_one(watch):
    watch.begin(JOB)
    watch.clock.seconds += 60
    watch.begin(LATER)
    watch.round()
    assert len(watch) == 2
    assert watch.hung() is None
    watch.clock.seconds += 41
    assert watch.hung() == Hung((JOB,))
    watch.end(JOB.job_id)
    assert watch.hung() is None


def test_a_main_loop_that_stands_still_hangs_the_node(watch):
    watch.round()
    watch.clock.seconds += 101
    assert watch.hung() == Hung(())


def test_its_thread_tells_once():
    told = []
    watch = Watch(0.1, told.append)
    watch.begin(JOB)
    watch.start()
    time.sleep(0.6)
    watch.stop()
    assert told == [Hung((JOB,))]


def test_code_that_lets_no_other_thread_run_is_ended_from_outside_python():
    code = (
        "import re; from app import watch; watch._LAST_RESORT_SECONDS = 0.2;"
        "w = watch.Watch(0.3, lambda hung: None); w.start(); w.round(); re.match('(a+)+$', 'a' * 50 + 'b')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert "Timeout" in done.stderr
    assert "aaaa" not in done.stderr, "functions and lines only"
