"""A node that has something to deliver, one round of its sender at a time."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from app.audit import TRAIL, AuditTrail
from app.backlog import waiting
from app.config import Destination, Peer
from app.delivery import Sender
from app.journal import DeliveryState, Journal
from app.outbox import Outbox
from app.receiver import Receiver
from app.tally import Tally
from tests.support_commitment import TITLE
from tests.support_dicom import PEER_TITLE, Clock, node_settings, result_files


@contextmanager
def started(make: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """Give what makes things; all of them are closed in the end."""
    with ExitStack() as opened:
        yield lambda *args, **kwargs: opened.enter_context(closing(make(*args, **kwargs)))


class Node:
    """A node with one job of two results to deliver, whose clock and sender the test moves."""

    def __init__(self, folder: Path, destination: Destination, *, results=2, **sender) -> None:
        sender = {"destinations": (destination,), "network_timeout_seconds": 5.0} | sender
        peers = (Peer(ae_title=TITLE), Peer(ae_title=PEER_TITLE))
        self.settings = node_settings(folder / "node", sender=sender, peers=peers)
        self.clock = Clock()
        # The receiver's journal goes by the real one.
        self.clock.seconds = time.time()
        self.journal = Journal(self.settings.journal_path, self.clock)
        self.outbox = Outbox(self.settings, self.journal)
        if self.journal.job("j1") is None:
            self.journal.study_arriving("k1", "1.2.3")
            self.journal.job_ready("j1", "k1", 4)
            self.journal.take_ready()
            self.outbox.commit("j1", result_files(folder / "output", results))
        trail = AuditTrail(self.settings.data_dir / TRAIL, "GLIOMA_NODE")
        spawn = multiprocessing.get_context("spawn")
        self._tally = Tally(spawn, self.settings.receiver.process_count, [destination.name])
        self._sender = Sender(
            self.settings.sender,
            self.journal,
            self.outbox,
            now=self.clock,
            trail=trail,
            steady=self.clock,
            tally=self._tally.deliveries,
        )
        self._receiver: Receiver | None = None

    @property
    def port(self) -> int:
        if self._receiver is None:
            self._receiver = Receiver(self.settings, self._tally)
        return self._receiver.port

    def turn(self, seconds: float = 0.0) -> float:
        """Let time pass, then the sender's thread once round; return how long it would wait."""
        # What the receiver wrote bears the real time.
        self.clock.seconds = max(self.clock.seconds, time.time()) + seconds
        (run,) = self._sender._runs
        return run._deliver_due()

    def states(self) -> set[DeliveryState]:
        return {delivery.state for delivery in self.journal.deliveries("j1")}

    def snapshot(self) -> list[tuple]:
        return [
            (row.state, row.request_uid, row.next_attempt, row.note, row.attempts, row.asks)
            for row in self.journal.deliveries("j1")
        ]

    def counted(self) -> tuple[int, ...]:
        """How many attempts delivered a result, failed, gave it up."""
        return tuple(self._tally.deliveries.read().values())

    @property
    def kept_files(self) -> bool:
        return (self.settings.outbox_dir / "j1").exists()

    @property
    def entry(self):
        (found,) = waiting(self.journal)
        return found

    def close(self) -> None:
        if self._receiver is not None:
            self._receiver.close()
        self.journal.close()
