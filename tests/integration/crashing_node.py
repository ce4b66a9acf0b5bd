"""The node, but that its network runs into a segmentation fault at every study; for test_poison."""

from __future__ import annotations

import ctypes


def crash(model, images) -> None:
    ctypes.string_at(0)


if __name__ == "__main__":
    # Not in the processes that it spawns: the receiver forks, and must have no thread by then, as OpenVINO starts.
    from app.__main__ import main
    from models.engine import Model

    Model.run_slices = crash
    main()
