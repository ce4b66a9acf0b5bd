"""The node in numbers, in Prometheus's text form (exposition format 0.0.4); job ids and identities are in none.

Written by hand: it is a page of lines, and its library would be one dependency more for that.
"""

from __future__ import annotations

import shutil
import threading
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from app import __version__
from app.backlog import Figures
from app.tally import DeliveryOutcome

if TYPE_CHECKING:
    from operators.stage import Job

BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds of the histogram of stage seconds."""
Kind = Literal["counter", "gauge", "histogram"]
Labels = Mapping[str, str]


class StageTimes:
    """Counts settled jobs and the seconds of their stages since the node started."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._counts: dict[str, list[int]] = defaultdict(lambda: [0] * (len(BUCKETS) + 1))
        self._sums: dict[str, float] = defaultdict(float)
        self._ended: Counter[str] = Counter()

    def settled(self, job: Job, outcome: str) -> None:
        """Count a job: done, failed, again or quarantined."""
        with self._guard:
            self._ended[outcome] += 1
            for stage, seconds in job.seconds.items():
                self._counts[stage][bisect_left(BUCKETS, seconds)] += 1
                self._sums[stage] += seconds

    def lines(self) -> Iterator[str]:
        """Write both families."""
        with self._guard:
            ended = dict(self._ended)
            stages = {stage: (list(counts), self._sums[stage]) for stage, counts in self._counts.items()}
        yield from _family(
            "glioma_jobs_total",
            "counter",
            "Attempts at jobs that ended since the node started, by outcome.",
            (({"outcome": outcome}, count) for outcome, count in ended.items()),
        )
        name = "glioma_stage_seconds"
        yield from _head(name, "histogram", "Wall-clock seconds of each stage since the node started.")
        for stage, (counts, total) in stages.items():
            for bound, count in zip((*map(str, BUCKETS), "+Inf"), accumulate(counts), strict=True):
                yield _line(f"{name}_bucket", {"stage": stage, "le": bound}, count)
            yield _line(f"{name}_sum", {"stage": stage}, total)
            yield _line(f"{name}_count", {"stage": stage}, sum(counts))


@dataclass(frozen=True)
class Process:
    """What a process of the node takes of the machine."""

    resident_bytes: int
    open_files: int


def look_at_process(pid: int | None) -> Process | None:
    """Read a process's memory and open descriptors off /proc; None where there is none, or no /proc."""
    try:
        folder = Path("/proc") / str(pid)
        kilobytes = next(
            int(line.split()[1]) for line in (folder / "status").read_text().splitlines() if line.startswith("VmRSS:")
        )
        return Process(kilobytes * 1024, sum(1 for _ in (folder / "fd").iterdir()))
    except (OSError, StopIteration, ValueError):
        return None


def processes_of(name: str, pid: int | None) -> dict[str, int | None]:
    """Return a process by its name, and those that it forked, in this order, as NAME_2, NAME_3 (Linux)."""
    try:
        forked = (Path("/proc") / str(pid) / "task" / str(pid) / "children").read_text().split()
    except OSError:
        forked = []
    return {name: pid} | {f"{name}_{number}": int(child) for number, child in enumerate(forked, 2)}


def write_metrics(
    found: Figures,
    destinations: Iterable[str],
    instances: Mapping[str, int],
    deliveries: Mapping[tuple[str, DeliveryOutcome], int],
    times: StageTimes,
    processes: Mapping[str, int | None],
    data_dir: Path,
    *,
    ready: bool,
    associations: int,
    rejected: int,
) -> str:
    """Lay out all metrics; `destinations` are those of the settings, told though nothing is owed to them."""
    owed = {name: found.destinations.get(name) for name in sorted({*destinations, *found.destinations})}
    looked = {name: look for name, pid in processes.items() if (look := look_at_process(pid)) is not None}
    families = [
        _family("glioma_info", "gauge", "Version of the node.", [({"version": __version__}, 1)]),
        _family("glioma_ready", "gauge", "1 where /ready answers 200.", [({}, int(ready))]),
        _family(
            "glioma_studies",
            "gauge",
            "Studies by state.",
            (({"state": str(state)}, count) for state, count in found.studies.items()),
        ),
        _family("glioma_jobs_waiting", "gauge", "Jobs that wait for the graph.", [({}, found.waiting)]),
        _family(
            "glioma_oldest_waiting_seconds",
            "gauge",
            "Age of the oldest job that waits; 0: none does.",
            [({}, found.oldest_waiting_seconds)],
        ),
        _family(
            "glioma_oldest_in_work_seconds",
            "gauge",
            "Since the attempt at the oldest job in work began; 0: there is none.",
            [({}, found.oldest_in_work_seconds)],
        ),
        _family(
            "glioma_deliveries_owed",
            "gauge",
            "Results that a destination is still to be sent.",
            (({"destination": name}, one.owed if one else 0) for name, one in owed.items()),
        ),
        _family(
            "glioma_deliveries_uncommitted",
            "gauge",
            "Results that a destination took, and has not committed itself to keep yet.",
            (({"destination": name}, one.uncommitted if one else 0) for name, one in owed.items()),
        ),
        _family(
            "glioma_deliveries_dead",
            "gauge",
            "Results that a destination refused for good.",
            (({"destination": name}, one.dead if one else 0) for name, one in owed.items()),
        ),
        _family(
            "glioma_oldest_owed_seconds",
            "gauge",
            "Age of the oldest result that a destination is still to be sent, or to commit; 0: there is none.",
            (({"destination": name}, one.oldest_seconds if one else 0.0) for name, one in owed.items()),
        ),
        _family(
            "glioma_instances_received_total",
            "counter",
            "Instances received since the node started, by what became of them.",
            (({"outcome": outcome}, count) for outcome, count in instances.items()),
        ),
        _family("glioma_associations", "gauge", "Associations with the receiver that are open.", [({}, associations)]),
        _family(
            "glioma_peers_rejected_total",
            "counter",
            "Peers turned away since the node started: not listed, without TLS, one too many.",
            [({}, rejected)],
        ),
        _family(
            "glioma_deliveries_total",
            "counter",
            "Attempts to deliver a result since the node started, by destination and what they came to.",
            (({"destination": name, "outcome": what}, count) for (name, what), count in deliveries.items()),
        ),
        times.lines(),
        _family(
            "glioma_disk_free_bytes",
            "gauge",
            "Free disk space where data_dir lies.",
            [({}, shutil.disk_usage(data_dir).free)],
        ),
        _family(
            "glioma_process_resident_bytes",
            "gauge",
            "Memory of each process of the node.",
            (({"process": name}, look.resident_bytes) for name, look in looked.items()),
        ),
        _family(
            "glioma_process_open_files",
            "gauge",
            "Open file descriptors of each process of the node.",
            (({"process": name}, look.open_files) for name, look in looked.items()),
        ),
    ]
    return "\n".join(line for family in families for line in family) + "\n"


def _family(name: str, kind: Kind, about: str, samples: Iterable[tuple[Labels, float]]) -> Iterator[str]:
    yield from _head(name, kind, about)
    for labels, value in samples:
        yield _line(name, labels, value)


def _head(name: str, kind: Kind, about: str) -> Iterator[str]:
    yield f"# HELP {name} {about}"
    yield f"# TYPE {name} {kind}"


def _line(name: str, labels: Labels, value: float) -> str:
    told = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    return f"{name}{{{told}}} {value:.10g}" if told else f"{name} {value:.10g}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
