"""Broken input of every kind is refused in words, crashes nothing, and shows nobody's name.

`make torture` throws a hundred thousand of each; here as many as a minute allows.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from tests.support_dicom import NODE_TITLE, PEER_TITLE
from tests.torture.fuzz import fuzz_datasets, fuzz_receiver
from tests.torture.mutations import case, seeds
from tests.torture.peers import script

DATASETS, CONNECTIONS = 1_500, 400
ROOT = Path(__file__).parents[1]
TITLES = NODE_TITLE.encode(), PEER_TITLE.encode()


def test_broken_datasets_are_refused_and_nothing_else(tmp_path):
    found = fuzz_datasets(range(DATASETS), tmp_path)
    assert found.faults == [], "a number makes its case again: tests.torture.mutations.case"
    assert found.counts["receiver: refused"] > DATASETS / 2
    assert found.counts["pipeline: read"] > DATASETS / 10, "not all is broken beyond reading"
    assert found.counts["inbox: read"] > DATASETS / 10
    assert min(found.counts["decoder: read"], found.counts["decoder: refused"]) > DATASETS / 100


POOR_READERS = """
import signal, sys
from pathlib import Path
from tests.torture import fuzz

kept = []
def hang(data):
    while True:
        pass

def keep(path):
    kept.append(bytearray(b"x" * 40_000_000))

fuzz.READER_SECONDS, fuzz.WARM_UP, fuzz.GROWTH_MB = 0.1, 1, 100.0
fuzz.read_identity, fuzz._load = hang, keep
fuzz._extremes = lambda: [(-1, b"")] * 3
before = signal.getsignal(signal.SIGPROF)
print("\\n".join(fuzz.fuzz_datasets(range(2), Path(sys.argv[1])).faults))
assert signal.getsignal(signal.SIGPROF) is before
"""


def test_a_reader_that_hangs_or_keeps_what_it_read_is_a_fault(tmp_path):
    """In a process of its own: what one that ran many tests gives back meanwhile would hide what grows."""
    command = [sys.executable, "-W", "ignore", "-c", POOR_READERS, str(tmp_path)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    hanging, growing = ran.stdout.splitlines()
    assert hanging == "crash: receiver: Hang, first at 0"
    assert growing.startswith("memory grew by")


def test_a_number_makes_the_same_case_again():
    whole = seeds()
    assert [case(n, whole) for n in range(40)] == [case(n, whole) for n in range(40)]
    assert [script(n, TITLES, whole) for n in range(40)] == [script(n, TITLES, whole) for n in range(40)]


def echo(port):
    ae = AE(ae_title=PEER_TITLE)
    ae.add_requested_context(Verification)
    association = ae.associate("127.0.0.1", port, ae_title=NODE_TITLE)
    assert association.is_established
    status = association.send_c_echo().Status
    association.release()
    return status


@pytest.mark.filterwarnings("ignore")
def test_broken_conversations_leave_a_receiver_that_answers_and_holds_nothing(listen):
    port = listen(network_timeout_seconds=5)
    process = psutil.Process()
    fuzz_receiver(range(40), port, TITLES)  # what is made once is made now
    before, threads = process.num_fds(), threading.active_count()
    seen = fuzz_receiver(range(40, 40 + CONNECTIONS), port, TITLES)
    assert seen["no end"] == 0
    assert seen["accepted"] > CONNECTIONS / 4, "not all is broken beyond an association"
    assert {"C-STORE 0x0000", "C-STORE 0xB000", "C-STORE 0xC000"} <= set(seen)
    assert echo(port) == 0
    for _ in range(100):
        if process.num_fds() <= before and threading.active_count() <= threads:
            break
        threading.Event().wait(0.1)
    assert process.num_fds() <= before
    assert threading.active_count() <= threads
