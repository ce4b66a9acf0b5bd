"""The demonstration: a node of its own, a study sent to it by C-STORE, and what came out."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.config import Destination
from app.errors import InputError, NodeError
from app.files import SUMMARY

REAL_STUDY = Path(__file__).parents[2] / "shared" / "data" / "studies" / "TCGA-FG-6692"
CALLING = "DEMO"
LIMIT_SECONDS = 300.0


@dataclass(frozen=True)
class Shown:
    """What the demonstration came to."""

    summary: dict[str, Any]
    closing: str


def run_demo(out: Path, study: Path | None, tell: Callable[[str], None]) -> Shown:
    """Run it all; raises NodeError when the node ends or the study fails."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    port = _free_port()
    begun = time.monotonic()
    with _running_node(out, port) as node:
        from app.sender import send_files  # loads while the node does

        folder = _study(study, out, tell)
        files = sorted(path for path in folder.rglob("*.dcm") if path.is_file())
        if not files:
            raise InputError(f"{folder} holds no .dcm files")
        tell("waiting for the node")
        _wait_for_port(node, port, out)
        ready = time.monotonic()
        tell(f"sending {len(files)} images by C-STORE")
        outcomes = send_files(
            files, Destination(name="demo", ae_title="GLIOMA_NODE", host="127.0.0.1", port=port), CALLING, 30
        )
        if not all(outcome.delivered for outcome in outcomes):
            raise NodeError("the node did not take every image")
        sent = time.monotonic()
        tell("analysing")
        results = _wait_for_results(node, out)
        done = time.monotonic()
    summary = json.loads((results / SUMMARY).read_text(encoding="utf-8"))
    summary["files"] = {kind: str(results / name) for kind, name in summary["files"].items()}
    source = "the real study TCGA-FG-6692" if folder == REAL_STUDY else str(folder)
    closing = (
        f"\n{source}: node up after {ready - begun:.1f} s, {len(files)} images sent in {sent - ready:.1f} s, "
        f"SEG and SR {done - sent:.1f} s later; {done - begun:.1f} s in all"
    )
    return Shown(summary, closing)


def _study(given: Path | None, out: Path, tell: Callable[[str], None]) -> Path:
    """Find the study to send: the given one, the real one where it is present, else a phantom made now."""
    if given is not None:
        return given
    if REAL_STUDY.is_dir():
        return REAL_STUDY
    from app.phantom import make_phantom

    tell("making a phantom")
    make_phantom(out / "phantom")
    return out / "phantom"


@contextmanager
def _running_node(out: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a node that lets the demonstration in, and stop it as an administrator would: by SIGTERM."""
    # A settings file of its own: the demonstration never sends to the PACS that app.yaml names.
    settings = {
        "data_dir": str(out / "node"),
        "receiver": {"host": "127.0.0.1", "port": port, "peers": [{"ae_title": CALLING}]},
        "inbox": {"settle_seconds": 0.5, "poll_seconds": 0.2},
    }
    config = out / "node.yaml"
    config.write_text(json.dumps({"node": settings}, indent=2), encoding="utf-8")  # JSON is YAML
    with (out / "node.log").open("wb") as log:
        command = [sys.executable, "-m", "app", "serve", "--config", str(config)]
        node = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield node
        finally:
            node.send_signal(signal.SIGTERM)
            try:
                node.wait(60)
            except subprocess.TimeoutExpired:
                node.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _check_alive(node: subprocess.Popen[bytes], out: Path) -> None:
    if node.poll() is not None:
        raise NodeError(f"the node ended with status {node.returncode}; {out / 'node.log'} says why")


def _wait_for_port(node: subprocess.Popen[bytes], port: int, out: Path) -> None:
    until = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < until:
        _check_alive(node, out)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise NodeError(f"the node did not listen within {LIMIT_SECONDS:.0f} s; {out / 'node.log'} says more")


def _wait_for_results(node: subprocess.Popen[bytes], out: Path) -> Path:
    """Wait for the archive's folder of the job; a failed study shows in the node's log."""
    until = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < until:
        _check_alive(node, out)
        for summary in (out / "node" / "archive").glob(f"*/*/{SUMMARY}"):
            return summary.parent
        if b" failed: " in (out / "node.log").read_bytes():
            raise NodeError(f"the study was not analysed; {out / 'node.log'} says why")
        time.sleep(0.25)
    raise NodeError(f"no results within {LIMIT_SECONDS:.0f} s; {out / 'node.log'} says more")
