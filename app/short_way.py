"""C-STORE as almost every peer sends it, straight from the bytes of its PDUs to the handler.

Through pynetdicom's PDUs, primitives, queues and Datasets an instance took two thirds of its processor time. Here a PDU
is taken whole or not at all: what is in any way special (another command, one in fragments, an element that
is not in the list, parts that are not in order) is left to pynetdicom, which decides as it always did.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from app.capped_socket import HEADER_BYTES
from app.incoming import Incoming, Memory
from app.wire import StoreRequest, file_head, store_request

_PART = struct.Struct(">LBB")
"""A presentation data value's length, its context and message control header (PS3.8 section 9.3.5.1, annex E.2)."""
_COMMAND, _DATASET, _END_OF_DATASET = 3, 0, 2
"""Message control headers: a command that is whole, a fragment of a dataset, the last one."""


@dataclass(slots=True)
class Asked:
    """What a C-STORE asks for, by pynetdicom's names, so that one handler serves either way."""

    AffectedSOPClassUID: str
    AffectedSOPInstanceUID: str
    DataSet: Incoming


@dataclass(slots=True)
class StoreEvent:
    """What a handler of EVT_C_STORE is told."""

    assoc: Any
    request: Asked


@dataclass(slots=True)
class Begun:
    """A C-STORE whose dataset is on its way."""

    context: int
    request: StoreRequest
    command: bytes
    dataset: Incoming | None = None
    """None until the PDU in which the command stands is known to be plain."""


class ShortWay:
    """The C-STOREs of one association, as far as they are plain."""

    def __init__(self, memory: Memory, contexts: Mapping[int, tuple[str, str]]) -> None:
        """`contexts` are those for storage: abstract and transfer syntax by number."""
        self._memory, self._contexts = memory, contexts
        self.begun: Begun | None = None
        """What has begun, and is not whole."""

    def take(self, pdu: memoryview, serve: Callable[[Begun, Incoming], None]) -> bool:
        """Take a P-DATA-TF and have `serve` what is whole with it; False where it is not plain, and nothing is done."""
        begun, fragments, is_whole = self.begun, [], False
        at, end = HEADER_BYTES, len(pdu)
        while at < end:
            if is_whole or at + _PART.size > end:
                return False
            length, context, control = _PART.unpack_from(pdu, at)
            first, at = at + _PART.size, at + 4 + length
            if length < 2 or at > end:
                return False
            if begun is None:
                if control != _COMMAND or (begun := self._begin(context, bytes(pdu[first:at]))) is None:
                    return False
            elif context == begun.context and control in {_DATASET, _END_OF_DATASET}:
                fragments.append(pdu[first:at])
                is_whole = control == _END_OF_DATASET
            else:
                return False
        if begun is None:
            return False
        dataset = begun.dataset if begun.dataset is not None else self._file_of(begun)
        for fragment in fragments:
            dataset.write(fragment)
        self.begun = None if is_whole else begun
        if is_whole:
            try:
                serve(begun, dataset)
            finally:
                dataset.close()
        return True

    def _begin(self, context: int, command: bytes) -> Begun | None:
        """Return what a command begins; None where that is not a plain C-STORE under a context of its SOP class."""
        request = store_request(command)
        if request is None or self._contexts.get(context, ("",))[0] != request.sop_class:
            return None
        return Begun(context, request, command)

    def _file_of(self, begun: Begun) -> Incoming:
        request = begun.request
        begun.dataset = dataset = Incoming(self._memory)
        dataset.begin_file(file_head(request.sop_class, request.instance, self._contexts[begun.context][1]))
        return dataset

    def let_go(self) -> Begun | None:
        """Return what has begun: it is not this way's any more."""
        begun, self.begun = self.begun, None
        return begun

    def forget(self) -> None:
        """Let go of what has begun, and of its memory."""
        begun = self.let_go()
        if begun is not None and begun.dataset is not None:
            begun.dataset.close()
