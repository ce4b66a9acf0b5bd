"""The warm process: what it returns and raises, and what its loss costs."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from operators.errors import NativeCrash, TimeOut, UnusableImage
from operators.native import Worker, WorkerError

ROOT = Path(__file__).parents[1]


def nothing() -> None:
    pass


def double(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    for name in arrays:
        arrays[name] *= 2  # what arrives is writable
    return arrays


def own_pid() -> int:
    return os.getpid()


def handlers() -> tuple[set[int], object, object]:
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    return masked, signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)


def crash() -> None:
    ctypes.string_at(0)


def leave() -> None:
    os._exit(7)


def note_and_leave(path: Path) -> None:
    with path.open("a") as file:
        file.write("x")
    os._exit(7)


def reject() -> None:
    raise UnusableImage("no brain")


def fail_with_a_name() -> None:
    raise KeyError("DOE^JANE")


@pytest.fixture
def worker():
    made = Worker(nothing, timeout_seconds=2.0)
    yield made
    made.stop()


def test_arrays_go_in_and_come_back(worker):
    sent = {"a": np.arange(1_000_000, dtype=np.float32).reshape(100, 100, 100), "empty": np.zeros((0, 3))}
    got = worker.run(double, sent)
    assert np.array_equal(got["a"], 2 * np.arange(1_000_000).reshape(100, 100, 100))
    assert got["empty"].shape == (0, 3)
    assert sent["a"][0, 0, 1] == 1, "the caller's own array is not touched"


def test_a_process_that_hangs_between_two_calls_is_replaced_without_cost(worker):
    before = worker.run(own_pid)
    os.kill(before, signal.SIGSTOP)
    got = worker.run(double, {"a": np.ones(1_000_000)})
    assert got["a"][0] == 2
    assert worker.run(own_pid) != before


def test_one_process_stays(worker):
    assert worker.run(own_pid) == worker.run(own_pid) != os.getpid()


@pytest.mark.parametrize(
    ("function", "error", "text"),
    [
        (crash, NativeCrash, "SIGSEGV"),
        (leave, NativeCrash, "status 7"),
        (signal.pause, TimeOut, "within 2 s"),
        (reject, UnusableImage, "no brain"),
        (fail_with_a_name, WorkerError, "KeyError in the worker process"),
    ],
)
def test_a_failed_call_says_why_and_the_next_works(function, error, text, worker, caplog):
    with pytest.raises(error, match=text):
        worker.run(function)
    assert worker.run(own_pid) > 0
    assert "DOE" not in caplog.text


def test_a_process_killed_in_mid_work_is_replaced(worker):
    lost = worker.run(own_pid)
    threading.Timer(0.5, os.kill, (lost, signal.SIGKILL)).start()
    with pytest.raises(NativeCrash, match="SIGKILL"):
        worker.run(signal.pause)
    assert worker.run(own_pid) != lost


def test_a_process_killed_between_calls_is_replaced(worker):
    for wait in (0.0, 0.002, 0.1):  # the kill meets the call before, while and after it is sent
        lost = worker.run(own_pid)
        os.kill(lost, signal.SIGKILL)
        time.sleep(wait)
        assert worker.run(own_pid) != lost


def test_a_call_that_a_process_took_is_not_given_to_another(worker, tmp_path):
    worker.run(own_pid)
    with pytest.raises(NativeCrash):
        worker.run(note_and_leave, tmp_path / "calls")
    assert (tmp_path / "calls").read_text() == "x"


def test_a_process_that_cannot_prepare_says_so():
    unable = Worker(reject)
    with pytest.raises(UnusableImage, match="no brain"):
        unable.run(own_pid)
    unable.stop()


def test_stopping_ends_a_call_that_is_under_way():
    stopped = Worker(nothing)
    pid = stopped.run(own_pid)
    threading.Timer(0.5, stopped.stop).start()
    with pytest.raises(NativeCrash):
        stopped.run(signal.pause)
    assert gone(pid)
    with pytest.raises(NativeCrash, match="stopped"):
        stopped.run(own_pid)


def test_stop_signals_do_not_reach_the_work(worker):
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1})
    try:
        masked, interrupt, terminate = worker.run(handlers)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert masked == set()
    assert interrupt == terminate == signal.SIG_IGN
    os.kill(pid := worker.run(own_pid), signal.SIGINT)
    os.kill(pid, signal.SIGTERM)
    assert worker.run(own_pid) == pid


@pytest.mark.parametrize("last", ["os.kill(os.getpid(), 9)", "sys.exit()"])
@pytest.mark.parametrize("at_work", [True, False])
def test_no_process_outlives_its_parent(last, at_work):
    code = (
        "import os, signal, sys, threading, time;from operators.native import Worker;"
        "from tests.test_native import nothing, own_pid;"
        "worker = Worker(nothing); print(worker.run(own_pid), flush=True);"
        f"{at_work} and threading.Thread(target=worker.run, args=(signal.pause,), daemon=True).start();"
        f"time.sleep(.3); {last}"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    pid = int(done.stdout.split()[0])
    until = time.monotonic() + 10
    while not gone(pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert gone(pid)


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has waited for yet counts as ended."""
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
