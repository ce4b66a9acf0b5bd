"""Hostile files that lie in the inbox: none ends the main loop, and none keeps another study from its turn."""

from __future__ import annotations

import logging
import os

import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian
from support_bombs import Peak

import operators.reading
from app.files import study_key
from app.inbox import Inbox
from app.journal import Journal, StudyState
from app.pipeline import has_all_contrasts
from operators.errors import PixelDataRefused, UnreadableInstance
from operators.load_study import load_study
from operators.reading import read_study_uid
from operators.sequences import MOST_ELEMENTS
from tests.support_dicom import Clock, arrive, node_settings, small_mr
from tests.torture.mutations import deep, image, many_items, nested, written

UID = "1.2.3"
"""Of the studies in the torture's files."""


class Node:
    """An inbox and its journal, that looks into folders as the node does."""

    def __init__(self, folder):
        self.settings = node_settings(folder, inbox={"settle_seconds": 3.0, "timeout_seconds": 120.0})
        self.clock, self.journal = Clock(), Journal(self.settings.journal_path)
        self.looked_into = has_all_contrasts
        self.inbox = Inbox(self.settings, self.journal, self._look_into, self.clock)
        self.inbox.reconcile()

    def _look_into(self, folder):
        return self.looked_into(folder)

    def put(self, content, uid=UID, name="a.dcm"):
        folder = self.settings.inbox_dir / study_key(uid)
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
        os.utime(folder, (1_000_000, 1_000_000))
        return folder

    def after(self, seconds):
        self.clock.seconds += seconds
        return self.inbox.poll()

    def complete(self):
        """The jobs when every study there is has been quiet for the longest time."""
        self.after(0)
        return self.after(4) + self.after(130)


@pytest.fixture
def node(tmp_path):
    node = Node(tmp_path / "node")
    yield node
    node.journal.close()


NESTED = {
    f"{depth} {form}{' before the UID' if early else ''}": deep(depth, form, early=early)
    for depth in (300, 1_000, 20_000)
    for form in ("closed", "defined")
    for early in (False, True)
}


@pytest.mark.parametrize("how", NESTED)
def test_a_file_nested_too_deep_becomes_a_job_that_is_refused(node, how):
    """It was received by an older version, or put there."""
    node.put(NESTED[how])
    arrive(node.settings, small_mr())
    jobs = node.complete()
    assert len(jobs) == 2, "its own, which fails with its reason, and the other study's"
    job = next(job for job in jobs if (job.input_folder / "a.dcm").exists())
    with pytest.raises(UnreadableInstance, match=r"^a.dcm is not read: its sequences are nested more than 64 deep$"):
        load_study(job.input_folder)


@pytest.mark.parametrize("early", [False, True])
def test_a_nest_without_end_stops_nothing(node, early, caplog):
    folder = node.put(deep(20_000, early=early))
    arrive(node.settings, small_mr())
    # The UID is found where it stands before; else the folder is left alone, and told once.
    assert len(node.complete()) == (1 if early else 2)
    told = [record.getMessage() for record in caplog.records if folder.name in record.getMessage()]
    assert told == ([f"folder {folder.name} is left alone: CutOff in its first file"] if early else told[:0])
    with pytest.raises(UnreadableInstance):
        load_study(folder)


@pytest.mark.parametrize("early", [False, True])
def test_a_uid_behind_or_before_many_items_takes_no_memory(node, early):
    path = node.put(many_items(400_000, early=early)) / "a.dcm"
    with Peak() as peak:
        assert read_study_uid(path) == UID
    assert peak.here < 40_000_000, "as Datasets they take 260 MB"


def test_a_folder_of_more_items_than_may_be_is_left_alone_and_told_once(node, caplog):
    folder = node.put(many_items(MOST_ELEMENTS, early=True))
    for _ in range(3):
        assert node.after(5) == []
    (told,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert told.getMessage() == (
        f"folder {folder.name} is left alone: it holds more than 1,000,000 elements and items in its first file"
    )


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_the_uid_is_read_in_every_transfer_syntax(tmp_path, syntax):
    ds = nested(image(None), 5)
    ds["ContentSequence"].is_undefined_length = True
    ds.ReferencedImageSequence = ds.ContentSequence
    ds["ReferencedImageSequence"].is_undefined_length = True
    (tmp_path / "a").write_bytes(written(ds, syntax))
    assert read_study_uid(tmp_path / "a") == UID
    del ds.StudyInstanceUID
    (tmp_path / "a").write_bytes(written(ds, syntax))
    assert read_study_uid(tmp_path / "a") == ""


def test_a_deflate_bomb_in_the_inbox_is_not_inflated(node, monkeypatch, caplog):
    monkeypatch.setattr(operators.reading, "MOST_INFLATED_BYTES", 100_000)
    ds = image(None)
    ds.add_new((0x0029, 0x1010), "OB", bytes(1_000_000))
    path = node.put(written(ds, DeflatedExplicitVRLittleEndian)) / "a.dcm"
    with pytest.raises(PixelDataRefused):
        read_study_uid(path)
    assert node.complete() == []
    assert "inflates to more than" in caplog.text


STRANGE = [IndexError, RecursionError, ZeroDivisionError, MemoryError, AttributeError, UnicodeError]


@pytest.mark.parametrize("error", STRANGE)
def test_an_error_that_nobody_foresaw_is_of_one_folder(node, error, caplog):
    """Not even one that a look into the folder raises: after some tries it is a job like any other."""
    strange = node.put(written(image(None), ExplicitVRBigEndian))

    def look_into(folder):
        if folder == strange:
            raise error("Secret^Person")
        return True

    node.looked_into = look_into
    arrive(node.settings, small_mr())
    node.after(0)
    assert len(node.after(4)) == 1, "the other study's"
    jobs = []
    for _ in range(100):
        jobs += node.after(4)
    assert len(jobs) == 1
    assert "Secret" not in caplog.text
    assert error.__name__ in caplog.text


def test_the_states_of_a_hostile_study_are_those_of_any_other(node):
    node.put(deep(1_000, "closed"))
    node.after(0)
    assert [study.state for study in node.journal.studies()] == [StudyState.ARRIVING]
