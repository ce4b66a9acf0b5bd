"""STOW-RS on real sockets: an honest service, hostile ones, and what becomes of what they do not take."""

from __future__ import annotations

import gzip
import json
import random
import socket
import ssl
import threading
import time
from functools import partial

import pytest
from pydantic import ValidationError

from app.audit import TRAIL
from app.backlog import put_back_destination
from app.config import Destination, load_settings, read_secret
from app.config_delivery import StowConfig
from app.doctor import examine
from app.errors import ConfigError, PeerError
from app.journal import DeliveryState
from app.sender import reference_of
from app.stow import BYTES_AT_ONCE, FILES_AT_ONCE, MOST_ANSWER_BYTES, StowCourier, _batches, _File, _read
from app.tls import tls_context
from tests.support_certificates import Authority
from tests.support_delivery import Node, started
from tests.support_dicom import result_files
from tests.support_port import free_port
from tests.support_web import Service, answer_of

SECRET = "s3cret-of-the-service"  # noqa: S105 - of a service of these tests


@pytest.fixture
def service():
    """Start services; each ends with the test."""
    with started(Service) as make:

        def start(behave=None, **kwargs):
            made = make(**kwargs)
            made.behave = behave
            return made

        yield start


@pytest.fixture
def node(tmp_path):
    """Make nodes on one data folder; each ends with the test."""
    with started(partial(Node, tmp_path)) as make:
        yield make


def send(server, files, timeout=20.0, **stow):
    """Send files once; return their outcomes, in the order they were told."""
    heard = []
    StowCourier("web", StowConfig(url=server.url, **stow), timeout).send(files, heard.append)
    return heard


def uid_of(path):
    return reference_of(path)[1]


# An honest service


def test_files_go_as_they_are_in_one_request(service, tmp_path):
    web, files = service(), result_files(tmp_path, 3)
    outcomes = send(web, files)
    assert [(outcome.path, outcome.delivered, outcome.note) for outcome in outcomes] == [(f, True, "") for f in files]
    assert web.parts == [path.read_bytes() for path in files]
    (request,) = web.requests
    assert request["path"] == "/dicom-web/studies"
    assert request["Content-Type"].startswith('multipart/related; type="application/dicom"; boundary=')
    assert request["Accept"] == "application/dicom+json"
    assert "Authorization" not in request
    assert not any("result-" in value for value in request.values()), "names of our files are ours"


def test_what_is_owed_is_delivered_and_leaves_the_outbox(service, node):
    web = service()
    here = node(web.destination())
    here.turn()
    assert here.states() == {DeliveryState.DELIVERED}
    assert not here.kept_files
    assert set(web.held.values()) == {1}
    trail = (here.settings.data_dir / TRAIL).read_text()
    assert 'UserID="web"' in trail
    assert 'NetworkAccessPointID="127.0.0.1"' in trail


def test_many_files_are_cut_into_requests(tmp_path):
    many = [_File(tmp_path / str(n), f"1.{n}", 10) for n in range(2 * FILES_AT_ONCE + 1)]
    assert [len(batch) for batch in _batches(many)] == [FILES_AT_ONCE, FILES_AT_ONCE, 1]
    large = [_File(tmp_path / str(n), f"1.{n}", BYTES_AT_ONCE) for n in range(3)]
    assert [len(batch) for batch in _batches(large)] == [1, 1, 1]


def test_what_is_no_dicom_file_is_told_and_the_rest_is_sent(service, tmp_path):
    (tmp_path / "notes.txt").write_text("nothing of DICOM")
    outcomes = send(service(), [tmp_path / "notes.txt", tmp_path / "absent", *result_files(tmp_path, 1)])
    assert [outcome.delivered for outcome in outcomes] == [False, False, True]


def test_a_warning_counts_as_delivered_and_is_noted(service, tmp_path):
    def warn(handler, uids):
        body = answer_of(uids).replace(b'"00081155"', b'"00081196": {"vr": "US", "Value": [45056]}, "00081155"')
        handler.say(202, body)

    (outcome,) = send(service(warn), result_files(tmp_path, 1))
    assert (outcome.delivered, outcome.note, outcome.status) == (True, "warning 0xB000", 0xB000)


def test_an_answer_in_an_array_is_read_too(service, tmp_path):
    (outcome,) = send(service(lambda h, uids: h.say(200, b"[" + answer_of(uids) + b"]")), result_files(tmp_path, 1))
    assert outcome.delivered


# One that takes only a part, or nothing

REASONS = [
    (0xA700, False, False),
    (0x0110, False, False),
    (0xA900, False, True),
    (0xC122, False, True),
    (0x0122, False, True),
    (0x0124, False, True),
    (0x0111, True, False),
    (45070, True, False),
]


@pytest.mark.parametrize(("reason", "delivered", "for_good"), REASONS)
def test_what_a_failure_reason_means(service, tmp_path, reason, delivered, for_good):
    first, second = files = result_files(tmp_path, 2)
    web = service(lambda h, uids: h.say(202, answer_of(uids[1:], {uids[0]: reason})))
    outcomes = {outcome.path: outcome for outcome in send(web, files)}
    assert (outcomes[first].delivered, outcomes[first].for_good) == (delivered, for_good)
    assert outcomes[second].delivered


def test_a_partial_failure_is_tried_again_alone(service, node):
    spoilt = []

    def partly(handler, uids):
        if not spoilt:
            spoilt.append(uids[0])
            handler.say(202, answer_of(uids[1:], {uids[0]: 0xA700}))
        else:
            handler.honest(uids)

    web = service(partly)
    here = node(web.destination(), results=3)
    here.turn()
    assert sorted(row.state for row in here.journal.deliveries("j1")) == ["delivered", "delivered", "owed"]
    assert here.entry.reason == "failure 0xA700"
    here.turn(6)
    assert web.asked[-1] == spoilt
    assert here.states() == {DeliveryState.DELIVERED}


def test_what_is_refused_for_good_is_a_dead_letter_until_a_person_retries(service, node):
    web = service(lambda h, uids: h.say(409, answer_of([], dict.fromkeys(uids, 0xA900))))
    here = node(web.destination(), refusals_allowed=2)
    here.turn()
    here.turn(6)
    assert here.states() == {DeliveryState.DEAD}
    web.behave = None
    here.turn(86_400)
    assert not web.held
    put_back_destination(here.journal, "web")
    here.turn()
    assert here.states() == {DeliveryState.DELIVERED}


@pytest.mark.parametrize("status", [400, 409, 413, 415, 422])
def test_one_file_that_spoils_the_request_costs_no_other(service, tmp_path, status):
    files = result_files(tmp_path, 4)
    bad = uid_of(files[2])
    web = service(lambda h, uids: h.say(status) if bad in uids else h.honest(uids))
    outcomes = {outcome.path: outcome for outcome in send(web, files)}
    assert [outcomes[path].delivered for path in files] == [True, True, False, True]
    assert outcomes[files[2]].for_good
    assert outcomes[files[2]].note == f"the service refuses it ({status})"


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (401, "does it know our user or token"),
        (403, "does it know our user or token"),
        (404, "is `stow.url` the root of its DICOMweb service"),
        (429, "it cannot store now"),
        (500, "it cannot store now"),
        (503, "it cannot store now"),
        (507, "it cannot store now"),
        (204, "it cannot store now"),
    ],
)
def test_what_is_about_us_or_passes_is_tried_for_ever(service, node, status, told):
    web = service(lambda h, uids: h.say(status))
    here = node(web.destination(), refusals_allowed=1)
    for _ in range(3):
        here.turn(1000)
    assert here.states() == {DeliveryState.OWED}
    assert (here.entry.state, here.entry.attempts) == ("stuck", 3)
    assert f"answers {status}" in here.entry.reason
    assert told in here.entry.reason
    web.behave = None
    here.turn(1000)
    assert here.states() == {DeliveryState.DELIVERED}


# One that lies

LIES = {
    "names nothing": lambda h, uids: h.say(200, answer_of()),
    "names another": lambda h, uids: h.say(200, answer_of(["1.2.3"])),
    "says both": lambda h, uids: h.say(200, answer_of(uids, dict.fromkeys(uids, 0x0110))),
    "is empty": lambda h, uids: h.say(200),
    "is no JSON": lambda h, uids: h.say(200, b"<html>all is well</html>"),
    "is deep": lambda h, uids: h.say(200, b"[" * 100_000),
    "is no dataset": lambda h, uids: h.say(200, b'{"00081199": {"vr": "SQ", "Value": [{"00081155": 7}]}}'),
    "is a number": lambda h, uids: h.say(200, b"7"),
    "is compressed": lambda h, uids: h.say(200, gzip.compress(answer_of(uids)), Content_Encoding="gzip"),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_the_answer_does_not_name_as_stored_is_not_delivered(service, node, lie):
    web = service(LIES[lie])
    here = node(web.destination(), refusals_allowed=1)
    here.turn()
    assert here.states() == {DeliveryState.OWED}
    assert here.entry.state == "stuck"
    assert here.entry.reason
    web.behave = None
    here.turn(6)
    assert here.states() == {DeliveryState.DELIVERED}


VALUES = (None, 1, -1, float("inf"), "x", "", [], {}, [None], {"vr": "SQ"}, {"vr": "US", "Value": ["a"]}, True)
VALUES += ({"vr": "SQ", "Value": [None]}, {"vr": 1, "Value": 1}, {"vr": "US", "Value": [10**12]}, [[[]]])
VALUES += ({"vr": "OB", "InlineBinary": "!"}, {"vr": "OB", "BulkDataURI": "http://x"}, {"vr": "XX", "Value": [1]})


def spoilt(value, dice):
    if dice.random() < 0.12:
        return dice.choice(VALUES)
    if isinstance(value, dict):
        return {key + dice.choice(["", "", "", "0"]): spoilt(inner, dice) for key, inner in value.items()}
    return [spoilt(inner, dice) for inner in value] if isinstance(value, list) else value


@pytest.mark.filterwarnings("ignore")
def test_broken_answers_name_nothing_and_break_nothing():
    sound = json.loads(answer_of(["1.2.3", "1.2.4"], {"1.2.5": 0x0110}))
    named = 0
    for number in range(3000):
        dice = random.Random(number)
        content = bytearray(json.dumps(spoilt(sound, dice)).encode())
        if dice.random() < 0.3:
            content[dice.randrange(len(content))] = dice.randrange(256)
        answer = _read(200, bytes(content))
        named += bool(answer.stored or answer.failed)
    assert 30 < named < 2000


# One that is hostile, or breaks


def test_no_redirect_is_followed_and_no_secret_goes_there(service, node, tmp_path):
    elsewhere = service()
    there = elsewhere.url.replace("127.0.0.1", "localhost") + "/studies?token=abc"
    (tmp_path / "secret").write_text(SECRET)
    for status in (301, 302, 303, 307, 308):
        web = service(lambda h, uids, status=status: h.say(status, Location=there))
        with pytest.raises(
            PeerError, match=f"answers {status}, a redirect to localhost, which is not followed"
        ) as caught:
            send(web, result_files(tmp_path / str(status), 1), secret_file=tmp_path / "secret")
        assert "abc" not in str(caught.value)
        assert SECRET not in str(caught.value)
    assert elsewhere.requests == []


def test_an_endless_answer_is_cut_off(service, tmp_path):
    sent = []

    def endless(handler, uids):
        handler.send_response(200)
        handler.send_header("Content-Type", "application/dicom+json")
        handler.end_headers()
        while len(sent) < 1000:
            handler.wfile.write(b" " * 100_000)
            sent.append(100_000)
        handler.close_connection = True

    with pytest.raises(PeerError, match=f"an answer of more than {MOST_ANSWER_BYTES} bytes"):
        send(service(endless), result_files(tmp_path, 1))
    assert sum(sent) < 100_000_000


@pytest.mark.parametrize("part", ["headers", "body"])
def test_an_answer_that_trickles_is_given_up(service, tmp_path, part):
    over = threading.Event()

    def trickle(handler, uids):
        if part == "body":
            handler.send_response(200)
            handler.end_headers()
        else:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while not over.wait(0.1):
            handler.wfile.write(b"x")
            handler.wfile.flush()

    begun = time.monotonic()
    with pytest.raises(PeerError, match="gave no whole answer in time"):
        send(service(trickle), result_files(tmp_path, 1), timeout=1.0)
    over.set()
    assert time.monotonic() - begun < 20


def test_one_that_never_answers_is_given_up_and_stop_does_not_wait_for_it(service, tmp_path):
    hanging, over = threading.Event(), threading.Event()

    def hang(handler, uids):
        hanging.set()
        over.wait(60)

    web = service(hang)
    with pytest.raises(PeerError, match="gave no whole answer in time"):
        send(web, result_files(tmp_path, 1), timeout=0.5)
    hanging.clear()
    courier = StowCourier("web", StowConfig(url=web.url), 50.0)
    ended = []

    def go():
        try:
            courier.send(result_files(tmp_path, 1), lambda _: None)
        except PeerError as error:
            ended.append(str(error))

    thread = threading.Thread(target=go)
    thread.start()
    assert hanging.wait(20)
    courier.stop()
    thread.join(20)
    over.set()
    assert not thread.is_alive()
    assert "was stopped" in ended[0]
    with pytest.raises(PeerError, match="was stopped"):
        courier.send(result_files(tmp_path, 1), lambda _: None)


def cut(handler):
    handler.rfile.read(100)
    handler.connection.shutdown(socket.SHUT_RDWR)
    return True


def test_one_that_aborts_in_the_middle_gets_everything_the_next_time(service, node):
    web = service()
    web.early = cut
    here = node(web.destination())
    here.turn()
    assert here.states() == {DeliveryState.OWED}
    assert "ended the connection before it had answered" in here.entry.reason
    web.early = None
    here.turn(6)
    assert here.states() == {DeliveryState.DELIVERED}
    assert set(web.held.values()) == {1}


def test_one_that_stores_and_loses_the_answer_gets_it_again_under_the_same_uid(service, node):
    def store_and_vanish(handler, uids):
        for uid in uids:
            web.held[uid] = web.held.get(uid, 0) + 1
        handler.connection.shutdown(socket.SHUT_RDWR)

    web = service(store_and_vanish)
    here = node(web.destination())
    here.turn()
    web.behave = lambda h, uids: h.say(409, answer_of([], {uid: 0x0111 for uid in uids if uid in web.held}))
    here.turn(6)
    assert here.states() == {DeliveryState.DELIVERED}
    assert {row.note for row in here.journal.deliveries("j1")} == {"was there already"}
    assert len(web.held) == 2


def test_one_that_is_gone_for_an_hour_gets_everything_when_it_is_back(service, node):
    port = free_port()
    here = node(Destination(name="web", stow={"url": f"http://127.0.0.1:{port}/dicom-web"}))
    began = here.clock.seconds
    wait = here.turn()
    while here.clock.seconds - began < 3600:
        wait = here.turn(max(wait, 0.5))
    assert here.entry.state == "stuck"
    assert "cannot be reached" in here.entry.reason
    assert 10 < here.entry.attempts < 20, "the pauses grow"
    web = service(port=port)
    here.turn(900)
    assert here.states() == {DeliveryState.DELIVERED}
    assert set(web.held.values()) == {1}


def test_a_host_that_is_unknown_and_a_port_that_speaks_no_http_say_so(tmp_path):
    files = result_files(tmp_path, 1)
    with pytest.raises(PeerError, match="cannot be found"):
        StowCourier("web", StowConfig(url="http://no-such-host.invalid"), 5.0).send(files, lambda _: None)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def babble():
            connection, _ = server.accept()
            connection.sendall(b"\x16\x03\x01 nothing of HTTP\r\n\r\n")
            connection.close()

        threading.Thread(target=babble, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(PeerError, match="ended the connection before it had answered"):
            StowCourier("web", StowConfig(url=url), 5.0).send(files, lambda _: None)


# Secrets and TLS


def test_a_token_and_a_password_are_sent_and_told_nowhere(service, tmp_path, monkeypatch, caplog):
    caplog.set_level("DEBUG")
    web, files = service(), result_files(tmp_path / "f", 1)
    (tmp_path / "token").write_text(SECRET + "\n")
    stow = StowConfig(url=web.url, secret_file=tmp_path / "token")
    assert SECRET not in repr(stow)
    send(web, files, secret_file=tmp_path / "token")
    assert web.requests[-1]["Authorization"] == f"Bearer {SECRET}"
    monkeypatch.setenv("WEB_PASSWORD", SECRET)
    send(web, files, user="node", secret_variable="WEB_PASSWORD")  # noqa: S106 - its name
    assert web.requests[-1]["Authorization"] == "Basic bm9kZTpzM2NyZXQtb2YtdGhlLXNlcnZpY2U="
    for behave in (lambda h, uids: h.say(401), lambda h, uids: h.connection.shutdown(2), LIES["is no JSON"]):
        web.behave = behave
        try:
            told = repr(send(web, files, secret_file=tmp_path / "token"))
        except PeerError as error:
            told = repr(error) + repr(error.__cause__)
        assert SECRET not in told
    assert SECRET not in caplog.text


def test_a_secret_that_cannot_be_used_names_its_place_alone(tmp_path, monkeypatch):
    url = "https://pacs.example.org/dicom-web"
    with pytest.raises(ConfigError, match=r"the secret in file .*absent cannot be read \(FileNotFoundError\)"):
        read_secret(StowConfig(url=url, secret_file=tmp_path / "absent"))
    with pytest.raises(ConfigError, match=r"environment variable NOT_SET cannot be read"):
        read_secret(StowConfig(url=url, secret_variable="NOT_SET"))  # noqa: S106 - its name
    (tmp_path / "two").write_text(f"{SECRET}\r\nX-Other: header")
    with pytest.raises(ConfigError, match="must hold one line") as caught:
        read_secret(StowConfig(url=url, secret_file=tmp_path / "two"))
    assert SECRET not in str(caught.value)
    heard = []
    courier = StowCourier("web", StowConfig(url=url, secret_file=tmp_path / "two"), 5.0)
    with pytest.raises(PeerError, match="must hold one line"):
        courier.send(result_files(tmp_path, 1), heard.append)
    assert heard == []


WRONG = [
    ({"url": "ftp://host"}, "a URL is wanted"),
    ({"url": "https://"}, "a URL is wanted"),
    ({"url": "https://host/x?token=1"}, "a URL is wanted"),
    ({"url": "https://me:pw@host/x"}, "no user and no password"),
    ({"url": "https://host", "user": "me"}, "a user needs a password"),
    ({"url": "https://host", "secret_file": "a", "secret_variable": "B"}, "not both"),
    ({"url": "http://host", "secret_file": "a"}, "over https alone"),
    ({"url": "https://host", "certificate": "a"}, "belong together"),
]


@pytest.mark.parametrize(("stow", "told"), WRONG)
def test_settings_that_cannot_work_are_refused(stow, told):
    with pytest.raises(ConfigError, match=told) as caught:
        load_settings(sender={"destinations": [{"name": "web", "stow": stow}]})
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    ("destination", "told"),
    [
        ({"name": "x"}, "needs ae_title, host and port, or stow"),
        ({"name": "x", "ae_title": "A", "host": "h"}, "needs ae_title, host and port, or stow"),
        ({"name": "x", "ae_title": "A", "stow": {"url": "https://h"}}, "one or the other"),
        ({"name": "x", "commitment": {}, "stow": {"url": "https://h"}}, "one or the other"),
    ],
)
def test_a_destination_is_one_of_two_kinds(destination, told):
    with pytest.raises(ValidationError, match=told):
        Destination(**destination)


def test_https_with_certificates_on_both_sides(tmp_path, service):
    authority = Authority(tmp_path / "tls")
    web = service(context=tls_context(ssl.PROTOCOL_TLS_SERVER, authority.issue("server").files))
    ours = authority.issue("client")
    objects = result_files(tmp_path / "f", 1)
    (outcome,) = send(web, objects, ca=ours.ca, certificate=ours.certificate, key=ours.key)
    assert outcome.delivered
    with pytest.raises(PeerError, match=r"ended the connection|not by TLS"):
        send(web, objects, ca=ours.ca)
    with pytest.raises(PeerError, match="can be reached, but not trusted"):
        send(web, objects)
    with pytest.raises(PeerError, match=r"CA file .* cannot be read"):
        send(web, objects, ca=tmp_path / "absent.crt")


# doctor


def test_doctor_says_whether_the_service_is_there(service, node):
    web = service(lambda h, uids: h.say(400))
    here = node(web.destination())

    def check():
        (found,) = [check for check in examine(here.settings) if check.subject == "destination web"]
        return found

    assert (check().ok, check().found) == (True, f"{web.url} answers STOW-RS")
    assert web.held == {}
    web.behave = lambda h, uids: h.say(404)
    assert not check().ok
    assert "is `stow.url` the root" in check().found
