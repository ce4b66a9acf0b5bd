"""Give pynetdicom's timers a clock that nobody sets; import it wherever an association may be open.

They run on the clock of the day. Set ahead, it would end every association; set back, a silent peer would keep its
place for as long as it was set back.
"""

from __future__ import annotations

import time
from types import SimpleNamespace

import pynetdicom.timer

pynetdicom.timer.time = SimpleNamespace(time=time.monotonic)  # type: ignore[attr-defined, assignment]
