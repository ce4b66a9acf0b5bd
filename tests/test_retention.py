"""What is over leaves, one folder at a time; what is owed, waits or is on its way in stays."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydicom.uid import ExplicitVRLittleEndian

from app import commitment
from app.config_operation import RetentionConfig
from app.files import study_key
from app.journal import Journal
from app.outbox import Outbox
from app.retention import LOOK_SECONDS, Retention
from app.store import SUCCESS, Store, read_identity
from tests.support_dicom import Clock, node_settings, result_files, save, small_mr
from tests.torture.mutations import written

DAY = 86_400.0
LONG_AGO = 1_000_000.0


class Site:
    """A node's folders and journal, a clock of the day and one of the process."""

    def __init__(self, folder: Path, **retention):
        settings = node_settings(folder / "node", sender={"destinations": [{**PACS}]})
        self.settings = settings.model_copy(update={"retention": RetentionConfig(**retention)})
        self.clock, self.steps, self.results = Clock(), Clock(), result_files(folder / "results")
        self.clock.seconds = LONG_AGO
        self.journal = Journal(settings.journal_path, self.clock)
        self.outbox = Outbox(settings, self.journal)
        self.restart()

    def restart(self):
        self.retention = Retention(self.settings, self.journal, self.clock, self.steps)
        self.retention.reconcile()

    def study(self, number, end="done"):
        """A study with images in the inbox; done and delivered, or as `end` says."""
        uid = f"1.2.{number}"
        key = study_key(uid)
        folder = self.settings.inbox_dir / key
        for name in ("a.dcm", "b.dcm"):
            save(small_mr(uid), folder / name)
        os.utime(folder, (self.clock(), self.clock()))
        self.journal.study_arriving(key, uid)
        if end == "arriving":
            return folder
        job_id = f"{number:032d}"
        self.journal.job_ready(job_id, key, 2)
        if end == "ready":
            return folder
        self.journal.take_ready()
        if end == "failed":
            self.journal.job_failed(job_id, "missing-sequence", "", "")
        elif end == "quarantined":
            self.journal.requeue_crashed(1)
        elif end != "processing":
            self.outbox.commit(job_id, self.results)
            for delivery in self.journal.deliveries(job_id):
                if end == "done":
                    self.journal.delivered(delivery.delivery_id)
                elif end == "uncommitted":
                    commitment.stored(self.journal, delivery.delivery_id, "", "1.2", f"1.2.{delivery.delivery_id}")
                elif end == "dead":
                    self.journal.not_delivered([delivery.delivery_id], "", lambda failures: 0.0, 1)
        return folder

    def wait(self, days):
        self.clock.seconds += days * DAY
        self.steps.seconds += days * DAY

    def sweep(self):
        """A look and all its steps; returns how many folders it took up."""
        self.steps.seconds += LOOK_SECONDS
        taken = 0
        while self.retention.step():
            taken += 1
        return taken

    def archived(self):
        return sorted(path.name for path in self.settings.archive_dir.glob("*/*"))


PACS = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 1}


@pytest.fixture
def site(tmp_path):
    made = []

    def build(**retention):
        made.append(Site(tmp_path, **retention))
        return made[-1]

    yield build
    for one in made:
        one.journal.close()


def test_images_of_a_done_study_leave_after_their_days_and_its_results_stay(site):
    here = site()
    folder = here.study(1)
    here.wait(29)
    here.sweep()
    assert folder.exists()
    here.wait(2)
    assert here.sweep() == 1
    assert not folder.exists()
    assert list(here.settings.inbox_dir.iterdir()) == []
    assert len(here.archived()) == 1
    assert len(here.journal.studies()) == 1, "its results are still here"


@pytest.mark.parametrize("end", ["arriving", "ready", "processing", "owed", "uncommitted", "dead"])
def test_what_waits_or_is_owed_is_never_removed(site, end):
    here = site(inbox_days=1, failed_days=1, archive_days=1)
    folder = here.study(1, end)
    archived = here.archived()
    here.wait(10_000)
    here.sweep()
    assert len(list(folder.iterdir())) == 2
    assert here.archived() == archived


@pytest.mark.parametrize("end", ["failed", "quarantined"])
def test_failed_studies_have_days_of_their_own_and_are_forgotten_with_their_images(site, end):
    here = site(inbox_days=1, failed_days=90)
    folder = here.study(1, end)
    here.wait(89)
    here.sweep()
    assert folder.exists()
    here.wait(2)
    here.sweep()
    assert not folder.exists()
    assert here.journal.studies() == here.journal.jobs() == here.journal.events(folder.name) == []


def test_the_archive_has_days_of_its_own_and_a_study_without_either_is_forgotten(site):
    here = site(inbox_days=10, archive_days=20)
    folder = here.study(1)
    here.wait(11)
    here.sweep()
    assert not folder.exists()
    here.wait(10)
    here.sweep()
    assert here.archived() == []
    assert list(here.settings.archive_dir.iterdir()) == []
    assert here.journal.studies() == here.journal.jobs() == []


def test_nought_is_for_ever(site):
    here = site(inbox_days=0, failed_days=0, archive_days=0)
    folders = [here.study(1), here.study(2, "failed"), here.study(3, "quarantined")]
    here.wait(100_000)
    assert here.sweep() == 0
    assert all(folder.exists() for folder in folders)


def test_one_step_removes_one_folder_and_it_looks_only_at_times(site):
    here = site()
    folders = [here.study(number) for number in range(3)]
    here.wait(31)
    for left in (2, 1, 0):
        assert here.retention.step()
        assert sum(folder.exists() for folder in folders) == left
    here.clock.seconds -= 31 * DAY
    late = here.study(4)
    here.clock.seconds += 31 * DAY
    assert not here.retention.step()
    here.steps.seconds += LOOK_SECONDS
    assert here.retention.step()
    assert not late.exists()


def test_a_study_that_is_on_its_way_in_again_stays(site):
    here = site()
    folder = here.study(1)
    here.wait(31)
    os.utime(folder, (here.clock() - 60, here.clock() - 60))
    here.sweep()
    assert folder.exists()


def test_a_study_that_is_sent_again_in_two_halves_stays_though_nothing_of_it_is_new(site):
    """Each image is answered with Success; retention has its turn between the halves, and after them."""
    here = site()
    store = Store(here.settings.inbox_dir, 0)
    files = [written(small_mr("1.2.1", number=number), ExplicitVRLittleEndian) for number in range(4)]
    folder = here.settings.inbox_dir / study_key("1.2.1")

    def send(some):
        assert [store.keep(read_identity(file), file) for file in some] == [SUCCESS] * len(some)
        store.settle()

    send(files)
    os.utime(folder, (here.clock(), here.clock()))
    here.study(1)
    (folder / "a.dcm").unlink()
    (folder / "b.dcm").unlink()
    os.utime(folder, (here.clock(), here.clock()))
    here.wait(31)
    send(files[:2])
    here.sweep()
    send(files[2:])
    here.sweep()
    assert len(list(folder.iterdir())) == 4


def test_a_duplicate_marks_its_folder_once_in_a_while_only(site):
    """A mark costs a sync, and a whole study may come again."""
    here = site()
    store = Store(here.settings.inbox_dir, 0)
    file = written(small_mr("1.2.1"), ExplicitVRLittleEndian)
    folder = here.settings.inbox_dir / study_key("1.2.1")
    store.keep(read_identity(file), file)
    os.utime(folder, (LONG_AGO, LONG_AGO))
    store.keep(read_identity(file), file)
    marked = folder.stat().st_mtime_ns
    assert marked > LONG_AGO * 1e9
    store.keep(read_identity(file), file)
    assert folder.stat().st_mtime_ns == marked


def test_a_folder_that_a_failing_disk_left_hidden_is_back_at_the_next_look(site):
    here = site()
    folder = here.study(1)
    folder.rename(folder.with_name(f".{folder.name}.leaving"))
    here.sweep()
    assert len(list(folder.iterdir())) == 2


def test_what_changes_between_the_look_and_its_turn_is_asked_again(site):
    here = site()
    folders = [here.study(1), here.study(2)]
    here.wait(31)
    here.retention.step()
    (left,) = [folder for folder in folders if folder.exists()]
    here.journal.study_arriving(left.name, "")
    here.sweep()
    assert left.exists()


def test_an_image_that_comes_while_its_folder_is_hidden_is_kept_with_all_the_others(site, monkeypatch):
    here = site()
    folder = here.study(1)
    here.wait(31)
    rename = Path.rename

    def receiver_is_quicker(path, target):
        monkeypatch.setattr(Path, "rename", rename)
        save(small_mr("1.2.1"), folder / "c.dcm")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", receiver_is_quicker)
    here.retention.step()
    assert sorted(path.name for path in folder.iterdir()) == ["a.dcm", "b.dcm", "c.dcm"]


def test_a_crash_in_mid_removal_is_undone_or_finished_at_start_up(site):
    here = site()
    hidden, half = here.study(1), here.study(2)
    hidden.rename(hidden.with_name(f".{hidden.name}.leaving"))
    half.rename(half.with_name(f".{half.name}.part"))
    both = here.study(3)
    both.rename(both.with_name(f".{both.name}.leaving"))
    save(small_mr("1.2.3"), both / "c.dcm")
    (here.settings.inbox_dir / ".incoming").mkdir()
    here.restart()
    assert len(list(hidden.iterdir())) == 2
    assert len(list(both.iterdir())) == 3
    assert sorted(p.name for p in here.settings.inbox_dir.iterdir()) == sorted([".incoming", hidden.name, both.name])


def test_a_folder_that_cannot_be_removed_stops_nothing(site, monkeypatch):
    here = site()
    folders = [here.study(1), here.study(2)]
    here.wait(31)
    rename = Path.rename

    def fail_once(path, target):
        monkeypatch.setattr(Path, "rename", rename)
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "rename", fail_once)
    here.sweep()
    assert sum(folder.exists() for folder in folders) == 1
    here.sweep()
    assert not any(folder.exists() for folder in folders)


def test_a_clock_that_leaps_ahead_makes_nothing_old(site):
    """As where a machine starts with a wrong clock, which is set a while later."""
    here = site(inbox_days=30, failed_days=30, archive_days=30)
    folder = here.study(1)
    here.clock.seconds += 20_000 * DAY
    here.sweep()
    assert folder.exists()
    assert len(here.archived()) == 1
    here.wait(31)
    here.sweep()
    assert not folder.exists()
    assert here.archived() == []


def test_a_clock_that_was_set_back_only_keeps_things_longer(site):
    here = site(inbox_days=1)
    folder = here.study(1)
    here.clock.seconds -= 5 * DAY
    here.wait(2)
    here.sweep()
    assert folder.exists()
    here.wait(5)
    here.sweep()
    assert not folder.exists()
