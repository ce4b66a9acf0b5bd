"""The monitoring endpoint: what it answers, in what form, and that nothing wrong stops it."""

from __future__ import annotations

import http.client
import json
import multiprocessing
import re
import socket
import threading
import time
from contextlib import suppress

import pytest

from app import operation
from app.backlog import Figures, Owed
from app.config_operation import OperationConfig
from app.errors import JournalError, NodeError
from app.journal import StudyState
from app.metrics import BUCKETS, StageTimes, look_at_process, write_metrics
from app.operation import AT_ONCE, METRICS_TYPE, OperationServer
from app.tally import Tally
from operators.stage import Job

LINE = re.compile(r'([a-z_]+)(\{[a-z]+="[^"]*"(?:,[a-z]+="[^"]*")*\})? (\d[0-9.e+-]*)')


def samples(text: str) -> dict[str, float]:
    """Read the text form, and hold it to its rules: each family announced once, before its samples."""
    found, family, announced = {}, "", []
    for line in text.splitlines():
        if line.startswith("# HELP "):
            family = line.split()[2]
            announced.append(family)
        elif line.startswith("# TYPE "):
            assert line.split()[2:] == [family, line.split()[3]]
            assert line.split()[3] in {"counter", "gauge", "histogram"}
        else:
            name, labels, value = LINE.fullmatch(line).groups()
            assert name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") == family
            found[name + (labels or "")] = float(value)
    assert len(announced) == len(set(announced))
    return found


def job(**seconds):
    made = Job("j1", None, None)
    made.seconds = seconds
    return made


@pytest.fixture
def serve():
    """Start servers; each ends with the test."""
    made = []

    def start(ready=lambda: {"receiver": True, "disk": True}, metrics=lambda: "x 1\n"):
        # Port 0 switches it off in the settings; here it takes a free one.
        made.append(OperationServer(OperationConfig(port=0), ready, metrics))
        return made[-1].port

    yield start
    for one in made:
        one.close()


def ask(port, path, method="GET"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path)
    answer = connection.getresponse()
    return answer.status, answer.read().decode(), answer.headers


def until_answered(port):
    """Ask for health until there is room again: it comes back a moment after an answer has gone out."""
    for _ in range(100):
        try:
            return ask(port, "/health")[0]
        except (http.client.HTTPException, OSError):
            time.sleep(0.1)
    return None


def test_health_says_that_the_process_answers(serve):
    status, text, _ = ask(serve(), "/health")
    assert (status, json.loads(text)) == (200, {"alive": True})


@pytest.mark.parametrize(("disk", "status"), [(True, 200), (False, 503)])
def test_ready_says_what_is_missing(serve, disk, status):
    port = serve(lambda: {"receiver": True, "disk": disk})
    answered, text, _ = ask(port, "/ready?verbose=1")
    assert (answered, json.loads(text)) == (status, {"ready": disk, "receiver": True, "disk": disk})


def test_metrics_come_as_prometheus_wants_them(serve):
    status, text, headers = ask(serve(), "/metrics")
    assert (status, text, headers["Content-Type"]) == (200, "x 1\n", METRICS_TYPE)


def test_head_has_no_body_and_other_pages_and_methods_are_refused(serve):
    port = serve()
    assert ask(port, "/health", "HEAD")[:2] == (200, "")
    assert ask(port, "/etc/passwd")[0] == 404
    assert ask(port, "/health", "POST")[0] == 501


def test_a_journal_that_cannot_be_read_is_a_503(serve):
    def fail():
        raise JournalError("the journal cannot be used: database is locked")

    port = serve(metrics=fail)
    assert ask(port, "/metrics")[0] == 503
    assert ask(port, "/health")[0] == 200


def test_too_many_at_once_are_dropped_and_room_comes_back(serve):
    let_go, inside = threading.Event(), threading.Semaphore(0)

    def slow():
        inside.release()
        let_go.wait(30)
        return "x 1\n"

    port = serve(metrics=slow)
    answers = []
    asking = [threading.Thread(target=lambda: answers.append(ask(port, "/metrics")[0])) for _ in range(AT_ONCE)]
    for thread in asking:
        thread.start()
    for _ in range(AT_ONCE):
        assert inside.acquire(timeout=30)
    with pytest.raises((http.client.HTTPException, OSError)):
        ask(port, "/health")
    let_go.set()
    for thread in asking:
        thread.join()
    assert answers == [200] * AT_ONCE
    assert until_answered(port) == 200


@pytest.mark.parametrize("begun", [b"", b"GET /health HTTP/1.1\r\nX: "], ids=["silent", "dripping"])
def test_peers_that_never_end_their_request_are_cut_off_however_they_drip(serve, monkeypatch, begun):
    monkeypatch.setattr(operation, "REQUEST_SECONDS", 2.0)
    port = serve()
    slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(AT_ONCE)]
    for connection in slow:
        connection.sendall(begun)
    begun_at = time.monotonic()
    status = None
    while status is None and time.monotonic() < begun_at + 20:
        time.sleep(0.2)  # each read within any limit of its own
        with suppress(http.client.HTTPException, OSError):
            status = ask(port, "/health")[0]
        for connection in slow if begun else ():
            with suppress(OSError):
                connection.sendall(b"a")
    assert status == 200
    for connection in slow:
        connection.settimeout(10)
        with suppress(ConnectionError):
            assert connection.recv(1) == b"", "cut off without an answer"
        connection.close()


def test_a_request_in_pieces_is_answered_if_it_is_whole_in_time(serve):
    with socket.create_connection(("127.0.0.1", serve())) as connection:
        for piece in (b"GET /hea", b"lth HTTP/1.1\r\nHost: x\r\n", b"\r\n"):
            connection.sendall(piece)
            time.sleep(0.1)
        connection.settimeout(10)
        assert connection.recv(100).startswith(b"HTTP/1.0 200")


def test_a_taken_port_is_one_clear_line(serve):
    with socket.create_server(("127.0.0.1", 0)) as other:
        config = OperationConfig(port=other.getsockname()[1])
        with pytest.raises(NodeError, match=r"cannot listen on .* choose another node\.operation\.port"):
            OperationServer(config, dict, str)


def test_every_metric_is_told_in_the_text_form(tmp_path):
    figures = Figures(dict.fromkeys(StudyState, 0) | {StudyState.DONE: 3}, 2, 7.5, 1.0, {"gone": Owed(0, 4, 0.0)})
    times = StageTimes()
    times.settled(job(load=0.3, segment=2.0), "done")
    times.settled(job(load=400.0), "failed")
    processes = {"node": None, "receiver": 999_999_999}
    sent = {("pacs", "delivered"): 7, ("pacs", "dead"): 2}
    counts = {"associations": 2, "rejected": 5}
    taken = {"kept": 9, "refused": 0}
    found = samples(write_metrics(figures, ["pacs"], taken, sent, times, processes, tmp_path, ready=True, **counts))
    assert found['glioma_studies{state="done"}'] == 3
    assert found['glioma_studies{state="quarantined"}'] == 0
    assert (found["glioma_jobs_waiting"], found["glioma_oldest_waiting_seconds"]) == (2, 7.5)
    assert found['glioma_deliveries_dead{destination="gone"}'] == 4
    assert found['glioma_instances_received_total{outcome="kept"}'] == 9
    assert (found["glioma_associations"], found["glioma_peers_rejected_total"]) == (2, 5)
    assert found['glioma_deliveries_total{destination="pacs",outcome="delivered"}'] == 7
    assert found['glioma_deliveries_total{destination="pacs",outcome="dead"}'] == 2
    assert found['glioma_jobs_total{outcome="failed"}'] == 1
    buckets = [found[f'glioma_stage_seconds_bucket{{stage="load",le="{bound}"}}'] for bound in (*BUCKETS, "+Inf")]
    assert buckets == [0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2]
    assert found['glioma_stage_seconds_sum{stage="load"}'] == pytest.approx(400.3)
    assert found["glioma_disk_free_bytes"] > 0
    assert not [name for name in found if "_process_" in name], "a process that is not there has no figures"


def count_one(tally):
    tally.deliveries.count("pacs", "delivered")
    tally.deliveries.count("gone", "delivered")
    tally.count(0x0000)


def test_what_the_receivers_processes_count_is_read_here_and_outlives_them():
    spawn = multiprocessing.get_context("spawn")
    tally = Tally(spawn, 2, ["other", "pacs"])
    tally.deliveries.count("pacs", "delivered", 5)
    for row in (0, 1, 1):
        process = spawn.Process(target=count_one, args=(tally.of(row),))
        process.start()
        process.join()
    assert {label: count for label, count in tally.deliveries.read().items() if count} == {("pacs", "delivered"): 8}
    assert len(tally.deliveries.read()) == 6, "each is told from nought on"
    assert tally.read() == {"kept": 3, "coerced": 0, "refused": 0}
    assert (tally.by_process(), tally.deliveries.by_row()) == ([1, 2], [1, 2, 5])


def test_a_quote_in_a_label_is_escaped(tmp_path):
    text = write_metrics(
        Figures(), ['a"b\\'], {}, {}, StageTimes(), {}, tmp_path, ready=False, associations=0, rejected=0
    )
    assert r'glioma_deliveries_owed{destination="a\"b\\"} 0' in text


def test_a_process_is_read_off_proc():
    import os

    look = look_at_process(os.getpid())
    assert look.resident_bytes > 1_000_000
    assert look.open_files >= 3
    assert look_at_process(None) is None
