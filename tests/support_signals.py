"""Which threads of a process a stop signal could be given to."""

from __future__ import annotations

from pathlib import Path

from app.signals import STOPS


def letting_through(process_id: int) -> list[int]:
    """Return the numbers of the threads that hold SIGTERM or SIGINT not back."""
    bits = sum(1 << (number - 1) for number in STOPS)
    tasks = Path(f"/proc/{process_id}/task").iterdir()
    masks = {int(task.name): (task / "status").read_text().partition("SigBlk:")[2].split()[0] for task in tasks}
    return [number for number, mask in masks.items() if int(mask, 16) & bits != bits]
