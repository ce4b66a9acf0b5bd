"""Whole conversations, sound and broken, with the short way and without it: nobody can tell which it was.

Each number makes one conversation: messages cut into fragments, these put into PDUs, these into pieces of the stream.
"""

from __future__ import annotations

import logging
import socket
import time
from collections import Counter
from contextlib import suppress

import numpy as np
import pytest
from pydicom.uid import CTImageStorage

from app.receiver import Receiver
from app.short_way import ShortWay
from app.upper_layer import Served
from tests.support_dicom import NODE_TITLE, PEER_TITLE, node_settings
from tests.test_short_way import DATASETS, INSTANCES, PLAIN, UNPLAIN
from tests.torture.peers import ABORT, DATA, RELEASE, VERIFICATION, command, part, pdu, request

CONVERSATIONS = 400
TRIES = 8
"""Where an association is aborted, it is a matter of moments either way what of the rest is still heard."""
Parts = list[tuple[int, int, bytes]]
"""Presentation data values: context, control header, content."""


class Side:
    """A receiver, and what it shows of itself."""

    def __init__(self, folder, *, short: bool) -> None:
        self.short, self._folder = short, folder
        self._receiver = Receiver(node_settings(folder, network_timeout_seconds=5.0))
        self.port, self.memory = self._receiver.port, self._receiver.memory

    def rest(self) -> None:
        """Wait until all that was said is done with, which may be after the peer has gone."""
        while self._receiver._server.active_associations:
            time.sleep(0.002)

    def kept(self):
        return {path.name: path.read_bytes() for path in (self._folder / "inbox").glob("[0-9a-f]*/*.dcm")}

    def close(self) -> None:
        self._receiver.close()


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    made = [Side(tmp_path_factory.mktemp(f"short {short}") / "node", short=short) for short in (True, False)]
    yield made
    for side in made:
        side.close()


def cut(random, content, most):
    """Cut content into up to `most` fragments, some of them empty."""
    cuts = sorted(int(random.integers(len(content) + 1)) for _ in range(int(random.integers(most))))
    return [content[a:b] for a, b in zip([0, *cuts], [*cuts, len(content)], strict=True)]


def message(random) -> Parts:
    """Make a C-ECHO, a plain C-STORE, or one that is odd in its command set, its dataset or its context."""
    kind = random.random()
    if kind < 0.15:
        said = command(e0002=VERIFICATION, e0100=0x0030, e0110=int(random.integers(65536)), e0800=0x0101)
        return [(1, 3, said)]
    instance = INSTANCES[int(random.integers(len(INSTANCES)))]
    dataset, context = DATASETS[instance], 3
    asked = PLAIN | {"e1000": instance, "e0110": int(random.integers(65536)), "e0700": int(random.integers(3))}
    said = command(**asked)
    if kind < 0.3:
        said = list(UNPLAIN.values())[int(random.integers(len(UNPLAIN)))]
    elif kind < 0.35:
        said = command(**asked | {"e1030": "PACS", "e1031": 3})
    elif kind < 0.4:
        said = command(**asked | {"e0002": CTImageStorage})
    elif kind < 0.45:
        dataset = dataset[: int(random.integers(len(dataset)))]
    elif kind < 0.5:
        dataset = dataset[:-1] + b"\x7f"  # known, with other content
    elif kind < 0.55:
        context = int(random.choice([1, 5, 7, 77]))
    fragments = cut(random, said, 3) if random.random() < 0.2 else [said]
    parts = [(context, 3 if n == len(fragments) - 1 else 1, one) for n, one in enumerate(fragments)]
    fragments = cut(random, dataset, 4)
    return parts + [(context, 2 if n == len(fragments) - 1 else 0, one) for n, one in enumerate(fragments)]


def broken(random, parts: Parts) -> Parts:
    """Break one part, or the order of two."""
    at, other = (int(random.integers(len(parts))) for _ in range(2))
    context, control, content = parts[at]
    what = int(random.integers(6))
    if what == 0:
        parts[at], parts[other] = parts[other], parts[at]
    elif what == 1:
        del parts[at]
    elif what == 2:
        parts.insert(other, parts[at])
    elif what == 3:
        parts[at] = (context, int(random.integers(256)), content)
    elif what == 4:
        parts[at] = (int(random.choice([1, 3, 5, 9])), control, content)
    else:
        parts[at] = (context, control, content[: int(random.integers(len(content) + 1))])
    return parts


def packed(random, parts: Parts) -> list[bytes]:
    """Put parts into PDUs; now and then one whose length is a lie, or that has nothing."""
    pdus, waiting = [], [part(*one) for one in parts]
    while waiting:
        count = 1 if random.random() < 0.6 else int(random.integers(1, 6))
        pdus.append(pdu(DATA, b"".join(waiting[:count])))
        del waiting[:count]
    if random.random() < 0.05:
        pdus.insert(int(random.integers(len(pdus) + 1)), pdu(DATA, b""))
    if random.random() < 0.05:
        at = int(random.integers(len(pdus)))
        content = bytearray(pdus[at])
        content[6:10] = int(random.integers(5000)).to_bytes(4, "big")
        pdus[at] = bytes(content)
    return pdus


def conversation(number) -> tuple[list[bytes], bool]:
    """Make the pieces in which a conversation is sent, behind its opening, and whether the peer just goes then."""
    random = np.random.default_rng([number, 4])
    parts = [one for _ in range(int(random.integers(1, 6))) for one in message(random)]
    if random.random() < 0.25:
        parts = broken(random, parts)
    pdus = packed(random, parts) if parts else []
    ending = random.random()
    pdus += [pdu(RELEASE, bytes(4))] if ending < 0.8 else [pdu(ABORT, bytes(4))] if ending < 0.9 else []
    return cut(random, b"".join(pdus), 8), ending >= 0.9


def hold(number, port) -> list[bytes]:
    """Hold a conversation and return the PDUs that were heard."""
    heard = bytearray()
    with socket.create_connection(("127.0.0.1", port), 30) as connection, suppress(ConnectionError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(request(NODE_TITLE.encode(), PEER_TITLE.encode()))
        heard += connection.recv(65536)
        with suppress(OSError):
            pieces, goes = conversation(number)
            for piece in pieces:
                connection.sendall(piece)
            if goes:
                connection.shutdown(socket.SHUT_WR)
        while some := connection.recv(65536):
            heard += some
    pdus = []
    while heard:
        size = 6 + int.from_bytes(heard[2:6], "big")
        pdus.append(bytes(heard[:size]))
        del heard[:size]
    return pdus


def test_a_conversation_comes_to_the_same_either_way(sides, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    seen, taken, real = Counter(), Counter(), ShortWay.take

    def take(self, content, serve):
        done = real(self, content, serve)
        taken[done] += 1
        return done

    monkeypatch.setattr(ShortWay, "take", take)

    def outcomes(number):
        for side in sides:
            monkeypatch.setattr(Served, "takes_short_way", side.short)
            caplog.clear()
            heard = hold(number, side.port)
            side.rest()
            told = sorted(record.getMessage() for record in caplog.records if record.name.startswith("app."))
            yield heard, told, side.kept()

    again = 0
    for number in range(CONVERSATIONS):
        for _ in range(TRIES):
            short, long = outcomes(number)
            if short == long:
                break
            assert any(one[0] == ABORT for heard, _, _ in (short, long) for one in heard), f"conversation {number}"
            again += 1
        assert short == long, f"conversation {number}"
        seen.update(one[0] for one in short[0])
    for side in sides:
        side.close()
        assert side.memory.used == 0
    assert again < CONVERSATIONS / 20
    assert taken[True] > CONVERSATIONS
    assert taken[False] > CONVERSATIONS / 4
    assert {2, DATA, 6, ABORT} <= seen.keys()
    assert seen[DATA] > CONVERSATIONS
