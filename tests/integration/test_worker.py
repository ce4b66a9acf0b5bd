"""The worker process inside the graph and inside a node: its loss costs one study, and it never stays behind."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path

import pytest

from app import process
from app.config import load_settings
from operators.native import Worker
from operators.stage import Job
from tests.support_study import RunningNode, phantom
from tests.test_native import gone

SMALL = {"slices": 16, "rows": 96, "columns": 96, "pixel_mm": 2.4, "spacing_mm": 8.0, "thickness_mm": 7.0}


def segfault() -> None:
    ctypes.string_at(0)


class CrashesOnce(Worker):
    """A worker whose first study runs into a segmentation fault."""

    crashed = False

    def run(self, function, *args, **kwargs):
        if not self.crashed:
            self.crashed = True
            return super().run(segfault)
        return super().run(function, *args, **kwargs)


def test_a_segmentation_fault_costs_one_study(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "Worker", CrashesOnce)
    truth = phantom(tmp_path, "study", **SMALL)
    settled: list[Job] = []
    pipeline = process.open_pipeline(load_settings(data_dir=tmp_path / "data"), settled.append)
    try:
        graph = pipeline.run_async()
        for name in ("first", "second"):
            (tmp_path / name).mkdir()
            pipeline.put(Job(name, truth.folder, tmp_path / name))
        pipeline.drain()
        graph.result()
    finally:
        pipeline.close()
    first, second = settled
    assert (first.failure.stage, first.failure.code) == ("preprocess", "native-crash")
    assert "SIGSEGV" in first.failure.message
    assert second.failure is None
    assert second.results


def children(pid: int) -> set[int]:
    """Processes that any thread of a process has started."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        found |= set(map(int, (task / "children").read_text().split()))
    return found


@pytest.mark.parametrize("end", [RunningNode.kill, RunningNode.stop], ids=["kill -9", "SIGTERM"])
def test_no_process_outlives_its_node(tmp_path, end):
    node = RunningNode(tmp_path).start()
    started = children(node.process.pid)
    assert len(started) >= 2, "the receiver and the worker"
    end(node)
    until = time.monotonic() + 15
    while not all(map(gone, started)) and time.monotonic() < until:
        time.sleep(0.1)
    assert all(map(gone, started))
