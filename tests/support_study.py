"""Phantom studies on disk, made once a test session, and a node run as its user runs it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.journal import JobRow, JobState, Journal
from app.phantom import PhantomOptions, PhantomTruth, make_phantom
from tests.support_dcmtk import dcmtk
from tests.support_port import free_port

ROOT = Path(__file__).parents[1]


_MADE: dict[Path, PhantomTruth] = {}


def phantom(folder: Path, name: str, **options: Any) -> PhantomTruth:
    """Make a phantom under a session's folder; the same name is made once."""
    if folder / name not in _MADE:
        _MADE[folder / name] = make_phantom(folder / name, PhantomOptions(**options))
    return _MADE[folder / name]


@dataclass
class RunningNode:
    """`python -m app serve` in a folder of its own."""

    folder: Path
    destinations: list[dict[str, Any]] = field(default_factory=list)
    timeout_seconds: float = 3.0
    receiver: dict[str, Any] = field(default_factory=dict)
    """Settings of its receiver beside address and peers."""
    more: dict[str, Any] = field(default_factory=dict)
    """Further sections of its settings."""
    environment: dict[str, str] = field(default_factory=dict)
    """Further variables of its environment."""
    port: int = 0
    module: str = "app"
    start_seconds: float = 120.0
    """How long it may take to listen."""
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> RunningNode:
        if not self.port:
            self.port = free_port()
        address = {"host": "127.0.0.1", "port": self.port, "peers": [{"ae_title": "SCANNER"}]}
        settings = {
            "data_dir": str(self.folder / "data"),
            "receiver": address | self.receiver,
            "inbox": {"settle_seconds": 0.5, "timeout_seconds": self.timeout_seconds, "poll_seconds": 0.2},
            "sender": {"destinations": self.destinations, "first_retry_seconds": 0.5},
        } | self.more
        config = self.folder / "node.yaml"
        config.write_text(json.dumps({"node": settings}))
        with (self.folder / "node.log").open("ab") as log:
            command = [sys.executable, "-m", self.module, "serve", "--config", str(config)]
            environment = os.environ | {"OMP_NUM_THREADS": "2"} | self.environment
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=environment)
        self.wait(self.listens, self.start_seconds, "the node does not listen")
        return self

    def listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def wait(self, condition: Callable[[], Any], seconds: float, otherwise: str) -> Any:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if found := condition():
                return found
            if self.process is not None and self.process.poll() is not None:
                break
            time.sleep(0.1)
        raise AssertionError(f"{otherwise}; log:\n{self.log()[-3000:]}")

    def log(self) -> str:
        return (self.folder / "node.log").read_text()

    def send(self, *paths: Path, check: bool = True, more: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        """Send files or folders with DCMTK."""
        options = ["-aet", "SCANNER", "-aec", "GLIOMA_NODE", *more, "+sd", "+r"]
        command = [dcmtk("storescu"), *options, "127.0.0.1", str(self.port), *map(str, paths)]
        environment = os.environ | {"TCP_NODELAY": "1"}
        return subprocess.run(command, check=check, capture_output=True, text=True, env=environment)

    def jobs(self) -> list[JobRow]:
        journal = Journal(self.folder / "data" / "journal.sqlite")
        try:
            return journal.jobs()
        finally:
            journal.close()

    def settled(self, count: int = 1, seconds: float = 180) -> list[JobRow]:
        """Wait until this many jobs are done or failed, and return all."""
        ended = {JobState.DONE, JobState.FAILED}

        def look() -> list[JobRow]:
            jobs = self.jobs()
            return jobs if sum(job.state in ended for job in jobs) >= count else []

        found: list[JobRow] = self.wait(look, seconds, f"no {count} jobs are settled")
        return found

    def archived(self) -> list[Path]:
        return sorted((self.folder / "data" / "archive").glob("*/*/*.dcm"))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM, as a service manager does; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)
