"""How many instances a second are taken: the node's receiver beside Orthanc, pynetdicom's storescp and DCMTK's.

python -m tests.benchmarks.ingest                        medians of three rounds, one and eight senders
python -m tests.benchmarks.ingest --only ours --senders 1 --rounds 9
python -m tests.benchmarks.ingest --only ours --only "one process" --only "two of ours"     what its processes bring

"ours" has as many processes as the node's receiver has by default; "one process" has one; "two of ours" are two such
that know nothing of each other, which is what two processes behind one port could come to at best.
All run on this machine, one after the other in each round, each begun anew in an empty folder; the senders are DCMTK's
storescu with TCP_NODELAY=1, and what they send are MR slices of 256 x 256 pixels of 16 bits. Ours and Orthanc's answer
when an instance is on disk (fsync; Orthanc's SyncStorageArea), the other two when it is written. In the end one more
round of ours, with eight senders, is looked at from within: where its connections' threads stand.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from multiprocessing import get_context
from pathlib import Path

import psutil
import pydicom
from pydicom.uid import generate_uid

from app.config import Settings
from app.phantom import PhantomOptions, make_phantom
from app.receiver import run_receiver
from operators.domain import Contrast
from tests.benchmarks.ingest_look import look_on, tell
from tests.integration.orthanc import Orthanc
from tests.support_dcmtk import dcmtk
from tests.support_dicom import node_settings
from tests.support_port import free_port

PDU_BYTES = 131_072
"""Every server takes PDUs of this length: the longest that storescu sends."""
SENDER = "TEST_PEER"
START_SECONDS = 120.0


@dataclass(frozen=True)
class Server:
    """A running one; `held` counts what it has on disk."""

    title: str
    ports: tuple[int, ...]
    """Senders take them in turns."""
    held: Callable[[], int]


def settings_in(folder: Path, processes: int | None) -> Settings:
    return node_settings(folder / "data", max_associations=16, max_associations_per_peer=16, processes=processes)


@contextmanager
def ours(folder: Path, report: Path | None = None, processes: int | None = None) -> Iterator[Server]:
    """The node's receiver, in processes of its own as the node starts it; `report` has it looked at from within."""
    spawn, settings = get_context("spawn"), settings_in(folder, processes)
    listening, told = spawn.Pipe(duplex=False)
    target, arguments = (run_receiver, (settings, told)) if report is None else (look_on, (settings, told, report))
    process = spawn.Process(target=target, args=arguments)
    process.start()
    told.close()
    try:
        yield Server("GLIOMA_NODE", (listening.recv(),), lambda: len(list(settings.inbox_dir.glob("*/*.dcm"))))
    finally:
        process.terminate()
        process.join()


@contextmanager
def one_process(folder: Path) -> Iterator[Server]:
    with ours(folder, processes=1) as server:
        yield server


@contextmanager
def two_of_ours(folder: Path) -> Iterator[Server]:
    """Two receivers that know nothing of each other, of one process and for half of the senders each."""
    with one_process(folder / "one") as one, one_process(folder / "other") as other:
        yield Server(one.title, (*one.ports, *other.ports), lambda: one.held() + other.held())


@contextmanager
def orthanc(folder: Path) -> Iterator[Server]:
    server = Orthanc(folder, SyncStorageArea=True, StorageCompression=False)
    with server:
        yield Server(server.AE_TITLE, (server.dicom_port,), lambda: len(server.get("/instances")))


@contextmanager
def _program(folder: Path, title: str, command: Sequence[str]) -> Iterator[Server]:
    port = int(command[-1])
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, env=os.environ | {"TCP_NODELAY": "1"}, **quiet)
    try:
        _wait_for(process)
        yield Server(title, (port,), lambda: len(list((folder / "out").iterdir())))
    finally:
        process.terminate()
        process.wait()


def _wait_for(process: subprocess.Popen[bytes]) -> None:
    """Wait until a program listens, without connecting: some would count that as an association."""
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        if any(c.status == psutil.CONN_LISTEN for c in psutil.Process(process.pid).net_connections()):
            return
        time.sleep(0.05)
    raise RuntimeError(f"{process.args!r} does not listen")


@contextmanager
def pynetdicom(folder: Path) -> Iterator[Server]:
    (folder / "out").mkdir(parents=True)
    where = ["--output-directory", str(folder / "out"), "--max-pdu", str(PDU_BYTES)]
    command = [sys.executable, "-m", "pynetdicom", "storescp", "-q", *where, str(free_port())]
    with _program(folder, "STORESCP", command) as server:
        yield server


@contextmanager
def dcmtk_storescp(folder: Path) -> Iterator[Server]:
    (folder / "out").mkdir(parents=True)
    options = ["--fork", "--max-pdu", str(PDU_BYTES), "--output-directory", str(folder / "out")]
    with _program(folder, "STORESCP", [dcmtk("storescp"), *options, str(free_port())]) as server:
        yield server


SERVERS = {
    "ours": ours, "Orthanc": orthanc, "pynetdicom": pynetdicom, "DCMTK": dcmtk_storescp,
    "one process": one_process, "two of ours": two_of_ours,
}  # fmt: skip
BY_DEFAULT = ("ours", "Orthanc", "pynetdicom", "DCMTK")


def slices(folder: Path, senders: int, each: int) -> list[Path]:
    """Write one folder a sender, a study of its own; returns the folders."""
    grid = {"rows": 256, "columns": 256, "slices": 24, "thickness_mm": 5, "spacing_mm": 5.5, "one_matrix": True}
    truth = make_phantom(folder / "phantom", PhantomOptions(contrasts=(Contrast.T1,), **grid))
    sources = [pydicom.dcmread(path) for path in sorted(truth.folder.glob("*.dcm"))]
    made = []
    for number in range(senders):
        made.append(folder / f"sender {number}")
        made[-1].mkdir()
        study, series = generate_uid(), generate_uid()
        for index in range(each):
            ds = sources[index % len(sources)]
            ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = study, series, generate_uid()
            ds.file_meta.MediaStorageSOPInstanceUID, ds.InstanceNumber = ds.SOPInstanceUID, index + 1
            ds.save_as(made[-1] / f"{index:04}.dcm", enforce_file_format=True)
    return made


def send(server: Server, folders: Sequence[Path]) -> float:
    """Send each folder by a sender of its own, all at once; returns the seconds until all of it is answered."""
    titles = ["-aet", SENDER, "-aec", server.title, "--max-pdu", str(PDU_BYTES)]
    command = [dcmtk("storescu"), *titles, "+sd", "127.0.0.1"]
    environment = os.environ | {"TCP_NODELAY": "1"}
    targets = list(zip(cycle(map(str, server.ports)), map(str, folders), strict=False))
    begun = time.perf_counter()
    senders = [subprocess.Popen([*command, *target], env=environment) for target in targets]
    ended = [sender.wait() for sender in senders]
    taken = time.perf_counter() - begun
    expected = sum(len(list(folder.iterdir())) for folder in folders)
    if any(ended) or server.held() != expected:
        raise RuntimeError(f"{server.title} holds {server.held()} of {expected}; senders ended with {ended}")
    return taken


def one_run(name: str, folders: Sequence[Path], scratch: Path) -> float:
    """Start a server anew, send, and return instances per second."""
    # All stay until the end: a file system may be slow to make files where many were removed a moment ago.
    with SERVERS[name](Path(tempfile.mkdtemp(prefix=f"{name}-", dir=scratch))) as server:
        taken = send(server, folders)
    return sum(len(list(one.iterdir())) for one in folders) / taken


def main() -> int:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--instances", type=int, default=800, help="in one run, of all senders together")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--senders", type=int, action="append", help="may be given again; default 1 and 8")
    parser.add_argument("--only", choices=SERVERS, action="append", help="may be given again; default four")
    parser.add_argument("--look", type=int, default=8, help="senders of the round that is looked at; 0: none")
    asked = parser.parse_args()
    names, counts = asked.only or list(BY_DEFAULT), asked.senders or [1, 8]
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        sent = {}
        for senders in {*counts, *([asked.look] if asked.look else [])}:
            (scratch / f"{senders}").mkdir()
            sent[senders] = slices(scratch / f"{senders}", senders, asked.instances // senders)
        speeds: dict[tuple[str, int], list[float]] = defaultdict(list)
        for _ in range(asked.rounds):
            for senders in counts:
                for name in names:
                    speeds[name, senders].append(one_run(name, sent[senders], scratch))
        print(f"instances per second, median (least, most) of {asked.rounds} rounds; ours against the others")
        for senders in counts:
            median = {name: statistics.median(speeds[name, senders]) for name in names}
            for name in names:
                least, most = min(speeds[name, senders]), max(speeds[name, senders])
                against = f"   x {median['ours'] / median[name]:.2f}" if "ours" in median and name != "ours" else ""
                print(f"{senders} senders  {name:11} {median[name]:7.0f} ({least:.0f}, {most:.0f}){against}")
        if asked.look:
            with ours(scratch / "server", scratch / "report.json") as server:
                send(server, sent[asked.look])
            print(f"\nwhere ours stands with {asked.look} senders, of its connections' time")
            tell(scratch / "report.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
