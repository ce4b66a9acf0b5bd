"""Success means kept: whatever call of the operating system fails, and whenever the power goes.

The argument is in docs/durability.md.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest
from pydicom.uid import ExplicitVRLittleEndian

from app.config import Destination
from app.errors import NodeError
from app.files import INCOMING, instance_name, publish_folder, study_key
from app.journal import JobState, Journal
from app.outbox import Outbox
from app.slots import sealed
from app.store import SUCCESS, Store, read_identity
from tests.support_dicom import node_settings, small_mr
from tests.support_faults import Disk, PowerCut, on
from tests.torture.mutations import written

FIRST, SECOND, OTHER = small_mr("1.2.3", number=1), small_mr("1.2.3", number=2), small_mr("1.2.4", number=3)
FAULTS = {"the disk is full": errno.ENOSPC, "the disk is broken": errno.EIO}
A = Destination(name="a", ae_title="A", host="127.0.0.1", port=1)


def file_of(ds):
    return written(ds, ExplicitVRLittleEndian)


def keep(store, ds):
    content = file_of(ds)
    return store.keep(read_identity(content), content)


def whole(inbox):
    """What a reader of the inbox meets, by name, without the preambles."""
    return {p.name: p.read_bytes()[128:] for p in inbox.glob("*/*.dcm") if not p.parent.name.startswith(".")}


def expected(*images):
    return {instance_name(ds.SOPInstanceUID): file_of(ds)[128:] for ds in images}


def after_power_cut(disk, folder, into):
    """Return what a node started after a power cut has in its inbox; `folder` itself is known to be on disk.

    Names that were taken away and not synced may be back, or not: both must come to the same.
    """
    found = []
    for removals in (False, True):
        disk.remains(folder, into / f"{removals}", removals=removals)
        store = Store(into / f"{removals}" / "inbox", 0)
        store.sweep()
        found.append(whole(into / f"{removals}" / "inbox"))
    fewer, more = sorted(found, key=len)
    assert fewer.items() <= more.items()
    return fewer


@pytest.fixture(autouse=True)
def slots_at_once(monkeypatch):
    """Slots are made in the thread that wants them, so that the order of the calls is always the same."""
    monkeypatch.setattr("app.slots.beside", lambda work: work())


def test_what_was_answered_with_success_survives_a_power_cut(tmp_path, monkeypatch):
    root = tmp_path / "disk"
    root.mkdir()
    with on(Disk(root), monkeypatch) as disk:
        store = Store(root / "inbox", 0)
        assert keep(store, FIRST) == keep(store, SECOND) == SUCCESS
    assert whole(root / "inbox") == after_power_cut(disk, root, tmp_path / "after") == expected(FIRST, SECOND)
    assert disk.calls.index("sync file") < disk.calls.index("link"), "no name before the content is safe"


def test_at_whatever_call_the_power_goes_nothing_is_lost_and_nothing_is_half(tmp_path, monkeypatch):
    monkeypatch.setattr("app.store.AT_ONCE", 2)
    monkeypatch.setattr("app.slots.AT_ONCE", 2)
    for cut_at in count():
        root, answered = tmp_path / f"disk {cut_at}", []
        root.mkdir()
        with on(Disk(root, cut_at, None), monkeypatch) as disk:
            with suppress(PowerCut):
                store = Store(root / "inbox", 0)
                for ds in (FIRST, OTHER, SECOND, FIRST):
                    if keep(store, ds) == SUCCESS:
                        answered.append(ds)
                store.settle()
            found = after_power_cut(disk, root, tmp_path / f"after {cut_at}")
        assert expected(*answered).items() <= found.items(), f"lost when the power goes at call {cut_at}"
        assert found.items() <= expected(FIRST, SECOND, OTHER).items()
        assert whole(root / "inbox").items() <= expected(FIRST, SECOND, OTHER).items()
        if not disk.is_out:
            break  # every call has had its turn
    assert cut_at > 30
    assert not [p for p in (root / "inbox" / INCOMING).iterdir() if p.stat().st_size], "all are settled"


def test_a_power_cut_in_the_middle_of_a_start_loses_nothing(tmp_path, monkeypatch):
    root = tmp_path / "disk"
    root.mkdir()
    with on(Disk(root), monkeypatch) as disk:
        store = Store(root / "inbox", 0)
        keep(store, FIRST)
        keep(store, OTHER)
    for cut_at in count():
        again = tmp_path / f"again {cut_at}"
        disk.remains(root, again)
        second = Disk(again, cut_at, None)
        for path in (again, *again.rglob("*")):
            second.synced(str(path), None if path.is_dir() else path.read_bytes)
        with on(second, monkeypatch), suppress(PowerCut):
            Store(again / "inbox", 0).sweep()
        assert after_power_cut(second, again, tmp_path / f"after {cut_at}") == expected(FIRST, OTHER)
        if not second.is_out:
            break
    assert cut_at > 4


def test_an_instance_that_is_in_its_folder_already_is_synced_there_before_success(tmp_path, monkeypatch):
    root = tmp_path / "disk"
    root.mkdir()
    with on(Disk(root), monkeypatch) as disk:
        store = Store(root / "inbox", 0)
        keep(store, FIRST)
        disk.forget(root / "inbox" / INCOMING)  # as if it had come by another way than a slot
        assert keep(store, FIRST) == SUCCESS
    assert after_power_cut(disk, root, tmp_path / "after") == expected(FIRST)


def test_a_folder_that_is_hidden_while_names_are_synced_keeps_its_slots(tmp_path, monkeypatch):
    """As retention does for a moment, another process."""
    root = tmp_path / "disk"
    root.mkdir()
    with on(Disk(root), monkeypatch) as disk:
        store = Store(root / "inbox", 0)
        assert keep(store, FIRST) == SUCCESS
        folder = root / "inbox" / study_key("1.2.3")
        hidden = folder.rename(folder.with_name(f".{folder.name}.leaving"))
        store.settle()
        assert whole(root / "inbox") == expected(FIRST), "named anew from its slot"
        assert after_power_cut(disk, root, tmp_path / "after") == expected(FIRST)
        assert len(list(hidden.iterdir())) == 1
    assert not [p for p in (root / "inbox" / INCOMING).iterdir() if p.stat().st_size]


def test_an_instance_whose_folder_is_hidden_as_it_comes_again_is_kept_anew(tmp_path, monkeypatch):
    store = Store(tmp_path / "inbox", 0)
    keep(store, FIRST)
    folder = tmp_path / "inbox" / study_key("1.2.3")
    stat, hidden = Path.stat, []

    def retention_is_quicker(path, **kwargs):
        if path == folder and not hidden:
            hidden.append(folder.rename(folder.with_name(f".{folder.name}.part")))
        return stat(path, **kwargs)

    monkeypatch.setattr(Path, "stat", retention_is_quicker)
    assert keep(store, FIRST) == SUCCESS
    assert hidden
    assert whole(tmp_path / "inbox") == expected(FIRST)


def test_what_cannot_be_named_at_a_start_waits_in_its_slot_and_is_named_later(tmp_path, monkeypatch, caplog):
    root = tmp_path / "disk"
    root.mkdir()

    def no_room(source, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    with on(Disk(root), monkeypatch):
        store = Store(root / "inbox", 0)
        keep(store, FIRST)
        shutil.rmtree(root / "inbox" / study_key("1.2.3"))
        again = Store(root / "inbox", 0)
        with monkeypatch.context() as full:
            full.setattr(os, "link", no_room)
            again.sweep()
        assert "waits in its slot" in caplog.text
        assert again.is_behind
        again.settle()
        assert whole(root / "inbox") == expected(FIRST)
        assert not again.is_behind


def test_without_hard_links_success_means_the_same(tmp_path, monkeypatch):
    root = tmp_path / "disk"
    root.mkdir()

    def no_links(source, target):
        raise OSError(errno.EPERM, "Operation not permitted")

    with on(Disk(root), monkeypatch) as disk:
        monkeypatch.setattr(os, "link", no_links)
        store = Store(root / "inbox", 0)
        assert keep(store, FIRST) == keep(store, SECOND) == keep(store, FIRST) == SUCCESS
        assert after_power_cut(disk, root, tmp_path / "after") == expected(FIRST, SECOND)
        store.settle()
    assert whole(root / "inbox") == expected(FIRST, SECOND)


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_call_fails_there_is_no_success_and_no_half_instance(tmp_path, monkeypatch, fault):
    monkeypatch.setattr("app.store.AT_ONCE", 1)
    for fail_at in count():
        root = tmp_path / f"disk {fail_at}"
        root.mkdir()
        with on(Disk(root, None), monkeypatch) as disk:
            store = Store(root / "inbox", 0)
            disk.fail_at, disk.error = len(disk.calls) + fail_at, FAULTS[fault]
            try:
                answered = keep(store, FIRST)
            except OSError:
                answered = None
            failed, disk.fail_at = len(disk.calls) > disk.fail_at, None
            assert whole(root / "inbox") in ({}, expected(FIRST)), "whole or not there"
            if answered is not None:
                assert after_power_cut(disk, root, tmp_path / f"after {fail_at}") == expected(FIRST)
            assert keep(store, FIRST) == SUCCESS, "the peer sends again"
            assert keep(store, SECOND) == SUCCESS
            store.settle()
            assert whole(root / "inbox") == expected(FIRST, SECOND)
            assert after_power_cut(disk, root, tmp_path / f"end {fail_at}") == expected(FIRST, SECOND)
        if not failed:
            break  # every call has had its turn
    assert fail_at >= 6, "open, write, sync, folder, link, syncs at least"


def test_short_writes_are_gone_on_with(tmp_path, monkeypatch):
    store = Store(tmp_path / "inbox", 0)
    with on(Disk(tmp_path, short=True), monkeypatch) as disk:
        assert keep(store, FIRST) == SUCCESS
    assert sum(call.startswith("write") for call in disk.calls) > 5
    assert whole(tmp_path / "inbox") == expected(FIRST)


@pytest.mark.parametrize("spoil", ["cut", "zeros", "longer", "old form"])
def test_what_is_not_whole_in_a_slot_is_removed_at_the_start(tmp_path, spoil):
    store = Store(tmp_path / "inbox", 0)
    keep(store, FIRST)
    store.settle()
    (kept,) = (tmp_path / "inbox").glob("*/*.dcm")
    content = kept.read_bytes()
    kept.unlink()
    spoilt = {
        "cut": content[:-1],
        "zeros": content[:600] + bytes(len(content) - 600),
        "longer": content + b"\0\0",
        "old form": bytes(128) + content[128:],
    }[spoil]
    left = tmp_path / "inbox" / INCOMING / "left.part"
    left.write_bytes(spoilt)
    Store(tmp_path / "inbox", 0).sweep()
    assert not left.exists()
    assert whole(tmp_path / "inbox") == {}


def test_what_is_whole_but_cannot_be_filed_is_left_and_told(tmp_path, caplog):
    Store(tmp_path / "inbox", 0)
    left = tmp_path / "inbox" / INCOMING / "left.part"
    left.write_bytes(b"".join(sealed(bytes(128) + b"DICM" + b"no dataset")))
    Store(tmp_path / "inbox", 0).sweep()
    assert left.exists()
    assert "cannot be filed, and stays in left.part" in caplog.text


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
