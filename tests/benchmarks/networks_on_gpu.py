"""How long each network of the comparison takes in torch on an NVIDIA GPU, in half precision, ms a call.

python -m tests.benchmarks.networks_on_gpu --json gpu.json                 one slice a call, and 32
python -m tests.benchmarks.networks_on_gpu --batches 1 --rounds 200

"eager" launches kernel after kernel from Python; "graph" replays them as one CUDA graph, which is nearer to what a
compiled engine does. Weights are random, images noise on the GPU already, and each call is waited for; all networks
take turns, medians and quartiles are told.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from models.nasbranet.cost import INPUT
from models.nasbranet.export import TumourProbability
from models.nasbranet.plan import FOUND_TEACHER, NetworkPlan
from models.nasbranet.roster import Entry, roster
from models.nasbranet.timing import captured, device_header, take_turns


def main() -> None:
    """Time them, and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", default="1,32", help="slices a call, comma-separated")
    parser.add_argument("--rounds", type=int, default=50, help="timed calls of each")
    parser.add_argument("--json", type=Path, help="result file")
    asked = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("torch sees no NVIDIA GPU here")
    entries = [e for e in roster(NetworkPlan.load("thesis"), NetworkPlan.load(FOUND_TEACHER)) if not e.taught]
    result: dict[str, object] = {"device": device_header(), "rounds": asked.rounds}
    with torch.inference_mode():
        for batch in map(int, asked.batches.split(",")):
            turns = {name: run for entry in entries for name, run in ways(entry, batch).items()}
            seconds = take_turns(turns, asked.rounds)
            figures = {name: [round(1000 * float(q), 4) for q in quartiles(s)] for name, s in seconds.items()}
            for name, (low, median, high) in figures.items():
                print(f"batch {batch}, {name}: {median:.3f} ms ({low:.3f} to {high:.3f})")
            result[f"batch {batch}"] = figures
    if asked.json is not None:
        asked.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def ways(entry: Entry, batch: int) -> dict[str, Callable[[], None]]:
    """A network's two ways to be called, by name; each waits for the GPU."""
    assert entry.make is not None
    network = TumourProbability(entry.make()).eval().to("cuda", torch.float16)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    image = torch.randn(batch, *INPUT[1:]).to("cuda", torch.float16, memory_format=torch.channels_last)
    replay = captured(lambda: network(image))

    def eager() -> None:
        network(image)
        torch.cuda.synchronize()

    def graph() -> None:
        replay()
        torch.cuda.synchronize()

    return {f"{entry.name}, eager": eager, f"{entry.name}, graph": graph}


def quartiles(seconds: list[float]) -> tuple[float, float, float]:
    """First quartile, median, third."""
    low, median, high = np.percentile(seconds, (25, 50, 75))
    return float(low), float(median), float(high)


if __name__ == "__main__":
    main()
