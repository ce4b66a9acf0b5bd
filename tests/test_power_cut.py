"""Success means kept: whatever call of the operating system fails, and whenever the power goes.

The argument is in docs/durability.md.
"""

from __future__ import annotations

import errno
import sqlite3
from itertools import count

import pytest

from app.config import Destination
from app.errors import NodeError
from app.files import publish_folder
from app.journal import JobState, Journal
from app.outbox import Outbox
from app.store import SUCCESS, Identity, Store
from tests.support_dicom import node_settings
from tests.support_faults import Disk, on

IDENTITY = Identity("1.2.840.10008.5.1.4.1.1.4", "1.2.3.4", "1.2.3")
SECOND = Identity("1.2.840.10008.5.1.4.1.1.4", "1.2.3.5", "1.2.3")
CONTENT = b"\0" * 128 + b"DICM" + b"\2\0\0\0UL\4\0\0\0\0\0" + bytes(range(256)) * 20
FAULTS = {"the disk is full": errno.ENOSPC, "the disk is broken": errno.EIO}
A = Destination(name="a", ae_title="A", host="127.0.0.1", port=1)


def whole(inbox):
    """Every instance that a reader of the inbox meets."""
    return [p for p in inbox.glob("*/*.dcm") if not p.parent.name.startswith(".")]


def test_what_was_answered_with_success_survives_a_power_cut(tmp_path, monkeypatch):
    with on(Disk(tmp_path), monkeypatch) as disk:
        store = Store(tmp_path / "node" / "inbox", 0)
        assert store.keep(IDENTITY, CONTENT) == SUCCESS
        assert store.keep(SECOND, CONTENT) == SUCCESS
    assert len(whole(tmp_path / "node" / "inbox")) == 2
    for path in whole(tmp_path / "node" / "inbox"):
        assert disk.survives(path) == CONTENT
    assert disk.calls.index("sync file") < disk.calls.index("replace"), "no name before the content is safe"


def test_a_folder_that_another_association_made_is_synced_before_success(tmp_path, monkeypatch):
    with on(Disk(tmp_path), monkeypatch) as disk:
        inbox = tmp_path / "inbox"
        store = Store(inbox, 0)
        store.keep(IDENTITY, CONTENT)
        for path in whole(inbox):
            path.unlink()
        other = Store(inbox, 0)
        disk.forget(inbox)  # as if the one that made the folder had not come to sync it
        assert other.keep(IDENTITY, CONTENT) == SUCCESS
    (path,) = whole(inbox)
    assert disk.survives(path) == CONTENT


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_call_fails_there_is_no_success_and_no_half_instance(tmp_path, monkeypatch, fault):
    for fail_at in count():
        folder = tmp_path / str(fail_at)
        folder.mkdir()
        store = Store(folder / "inbox", 0)
        with on(Disk(folder, fail_at, FAULTS[fault]), monkeypatch) as disk:
            try:
                answered = store.keep(IDENTITY, CONTENT)
            except OSError:
                answered = None
        if answered == SUCCESS and len(disk.calls) <= fail_at:
            break  # every call has had its turn
        assert all(path.read_bytes() == CONTENT for path in whole(folder / "inbox")), "whole or not there"
        assert answered is None or all(disk.survives(p) == CONTENT for p in whole(folder / "inbox"))
        assert store.keep(IDENTITY, CONTENT) == SUCCESS, "the peer sends again"
        assert [p.read_bytes() for p in whole(folder / "inbox")] == [CONTENT]
    assert fail_at >= 6, "open, write, sync, folder, rename, sync at least"


def test_short_writes_are_gone_on_with(tmp_path, monkeypatch):
    store = Store(tmp_path / "inbox", 0)
    with on(Disk(tmp_path, short=True), monkeypatch) as disk:
        assert store.keep(IDENTITY, CONTENT) == SUCCESS
    assert sum(call.startswith("write") for call in disk.calls) > 5
    assert whole(tmp_path / "inbox")[0].read_bytes() == CONTENT


@pytest.mark.parametrize("fault", FAULTS)
def test_a_folder_is_published_whole_or_not_at_all(tmp_path, monkeypatch, fault):
    source = tmp_path / "source"
    source.mkdir()
    files = [source / f"{i}.dcm" for i in range(3)]
    for file in files:
        file.write_bytes(file.name.encode() * 100)
    for fail_at in count():
        target = tmp_path / f"target {fail_at}" / "job"
        target.parent.mkdir()
        with on(Disk(tmp_path, fail_at, FAULTS[fault]), monkeypatch) as disk:
            try:
                publish_folder(files, target)
            except OSError:
                assert not target.exists() or len(list(target.iterdir())) == 3
            else:
                if len(disk.calls) <= fail_at:
                    break
        publish_folder(files, target)
        assert {p.read_bytes() for p in target.iterdir()} == {f.read_bytes() for f in files}
    for file in target.iterdir():
        held = disk.survives_below(file, target.parent)
        assert held == file.read_bytes()


@pytest.mark.parametrize("fault", FAULTS)
def test_results_become_owed_whole_or_the_job_is_done_again(tmp_path, monkeypatch, fault):
    for fail_at in count():
        settings = node_settings(tmp_path / str(fail_at), sender={"destinations": (A,)})
        journal = Journal(settings.journal_path)
        outbox = Outbox(settings, journal)
        journal.study_arriving("k", "1.2.3")
        journal.job_ready("j", "k", 1)
        journal.take_ready()
        made = tmp_path / str(fail_at) / "sr.dcm"
        made.write_bytes(b"report")
        with on(Disk(tmp_path / str(fail_at), fail_at, FAULTS[fault]), monkeypatch) as disk:
            try:
                outbox.commit("j", [made])
            except (OSError, NodeError, sqlite3.Error):
                assert journal.job("j").state is JobState.PROCESSING
                assert not journal.owed("a")
        outbox.commit("j", [made])
        assert journal.job("j").state is JobState.DONE
        assert [outbox.path("j", d.file).read_bytes() for d in journal.owed("a")] == [b"report"]
        journal.close()
        if len(disk.calls) <= fail_at:
            break  # every call has had its turn
    assert fail_at > 10
