"""Retention on a disk that fails, beside a receiver that answers in between: what was answered with Success stays.

The receiver acts before each call that retention makes of the operating system, in turn; and the power goes, or the
disk fails, at each of them. Faults and what a power cut leaves: tests/support_faults.py; docs/durability.md argues it.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from itertools import count

import pytest

from app.files import INCOMING, study_key
from app.retention import Retention
from app.store import SUCCESS, Store, read_identity
from tests.support_dicom import small_mr
from tests.support_faults import Disk, PowerCut, on
from tests.test_power_cut import expected, file_of, whole
from tests.test_retention import Site

STUDY = "1.2.1"
FIRST, SECOND, LATE = (small_mr(STUDY, number=number) for number in (1, 2, 3))


class Beside(Disk):
    """A disk on which, before one call of retention's, the receiver has its turn."""

    turn: int | None = None
    begun = 0
    """How many calls came before retention began."""

    def __init__(self, root, act):
        super().__init__(root)
        self.act, self.in_turn = act, False

    def step(self, what):
        if not self.in_turn and self.turn is not None and len(self.calls) - self.begun == self.turn:
            self.turn, self.in_turn = None, True
            self.act()
            self.in_turn = False
        super().step(what)


class Scene:
    """A study that is over, and a receiver that it may be sent to again."""

    def __init__(self, folder, monkeypatch, act=()):
        monkeypatch.setattr("app.slots.beside", lambda work: work())
        self.here = Site(folder)
        self.inbox = self.here.settings.inbox_dir
        self.disk = Beside(self.here.settings.data_dir, lambda: self.receive(*act))
        self.answered = []
        with on(self.disk, monkeypatch):
            self.store = Store(self.inbox, 0)
            self.receive(FIRST, SECOND)
        self.answered = []
        for path in (self.here.settings.data_dir, self.inbox):
            self.disk.synced(str(path), None)
        os.utime(self.inbox / study_key(STUDY), (self.here.clock(),) * 2)
        journal, key, job = self.here.journal, study_key(STUDY), "1" * 32
        journal.study_arriving(key, STUDY)
        journal.job_ready(job, key, 2)
        journal.take_ready()
        self.here.outbox.commit(job, self.here.results)
        for delivery in journal.deliveries(job):
            journal.delivered(delivery.delivery_id)
        self.here.wait(31)
        self.disk.begun = len(self.disk.calls)

    def receive(self, *images):
        """Images come over an association, which then ends."""
        for ds in images:
            content = file_of(ds)
            with suppress(OSError):
                if self.store.keep(read_identity(content), content) == SUCCESS:
                    self.answered.append(ds)
        self.store.settle()

    def after_power_cut(self, into):
        """What a node has that starts after a power cut now: whether names that were taken away are back, or not."""
        found = []
        for removals in (False, True):
            again = into / f"{removals}"
            self.disk.remains(self.here.settings.data_dir, again, removals=removals)
            settings = self.here.settings.model_copy(update={"data_dir": again})
            Retention(settings, self.here.journal, self.here.clock, self.here.steps).reconcile()
            Store(settings.inbox_dir, 0).sweep()
            found.append(whole(settings.inbox_dir))
        return found

    def close(self):
        self.here.journal.close()


ACTS = {"something new": (LATE,), "what is there": (FIRST,), "all of it": (FIRST, SECOND, LATE)}
BEFORE_IT_IS_HIDDEN = 1
"""The number of the call that hides the folder; the one before it lists the names."""


@pytest.mark.parametrize("act", ACTS)
def test_what_the_receiver_answers_at_any_moment_of_a_removal_stays(tmp_path, monkeypatch, act):
    for turn in count():
        scene = Scene(tmp_path / f"{turn}", monkeypatch, ACTS[act])
        scene.disk.turn = turn
        with on(scene.disk, monkeypatch):
            scene.here.sweep()
        had_its_turn = scene.disk.turn is None
        kept = expected(*scene.answered)
        assert kept.items() <= whole(scene.inbox).items(), f"gone, answered before call {turn}"
        for found in scene.after_power_cut(tmp_path / f"after {turn}"):
            assert kept.items() <= found.items(), f"gone with the power, answered before call {turn}"
        hidden = [path.name for path in scene.inbox.iterdir() if path.name.startswith(".")]
        assert hidden == [INCOMING]
        scene.close()
        if not had_its_turn:
            break
        assert scene.answered == list(ACTS[act])
    assert turn > 6


@pytest.mark.parametrize("act", [None, "all of it"])
def test_whenever_the_power_goes_a_study_is_there_whole_or_not_at_all(tmp_path, monkeypatch, act):
    """The receiver has its turn right before the folder is hidden, where retention has just found it quiet."""
    for cut_at in count():
        scene = Scene(tmp_path / f"{cut_at}", monkeypatch, ACTS.get(act, ()))
        disk = scene.disk
        disk.turn = BEFORE_IT_IS_HIDDEN if act else None
        with on(disk, monkeypatch):
            disk.fail_at, disk.error = disk.begun + cut_at, None
            with suppress(PowerCut):
                scene.here.sweep()
        for found in scene.after_power_cut(tmp_path / f"after {cut_at}"):
            assert expected(*scene.answered).items() <= found.items(), f"lost when the power goes at call {cut_at}"
            if act:
                assert expected(FIRST, SECOND).items() <= found.items(), "put back with what it had"
            else:
                assert found in ({}, expected(FIRST, SECOND)), "never half a study"
        scene.close()
        if not disk.is_out:
            break
    assert cut_at > 6


@pytest.mark.parametrize("act", [None, "all of it"])
def test_whatever_call_fails_nothing_is_lost_and_the_next_look_puts_it_right(tmp_path, monkeypatch, act):
    for fail_at in count():
        scene = Scene(tmp_path / f"{fail_at}", monkeypatch, ACTS.get(act, ()))
        disk = scene.disk
        disk.turn = BEFORE_IT_IS_HIDDEN if act else None
        with on(disk, monkeypatch):
            disk.fail_at, disk.error = disk.begun + fail_at, errno.EIO
            with suppress(OSError):
                scene.here.sweep()
            failed, disk.fail_at = len(disk.calls) > disk.fail_at, None
            scene.receive()
            scene.here.sweep()
        found = whole(scene.inbox)
        assert expected(*scene.answered).items() <= found.items()
        assert [path.name for path in scene.inbox.iterdir() if path.name.startswith(".")] == [INCOMING]
        left = expected(FIRST, SECOND, *scene.answered) if scene.answered else {}
        assert found == left, "put back with what it had, or removed in the end"
        scene.close()
        if not failed:
            break
    assert fail_at > 6
