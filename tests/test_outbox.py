"""Results become owed and archived all at once, and leave the outbox when everyone has them."""

import shutil

import pytest

from app.config import Destination
from app.journal import DeliveryState, JobState, Journal
from app.outbox import Outbox
from tests.support_dicom import node_settings, result_files

A = Destination(name="a", ae_title="A", host="127.0.0.1", port=1)
B = Destination(name="b", ae_title="B", host="127.0.0.1", port=2)
MAPS = Destination(name="maps", ae_title="M", host="127.0.0.1", port=3, segmentation="labelmap")


@pytest.fixture
def make(tmp_path):
    """Return journal, outbox, settings and the results of a job that is being processed."""
    journals = []

    def build(*destinations):
        settings = node_settings(tmp_path / "node", sender={"destinations": destinations})
        journal = Journal(settings.journal_path)
        journals.append(journal)
        journal.study_arriving("k1", "1.2.3")
        journal.job_ready("j1", "k1", 4)
        journal.take_ready()
        return journal, Outbox(settings, journal), settings, result_files(tmp_path / "output")

    yield build
    for journal in journals:
        journal.close()


def test_every_result_is_owed_to_every_destination_and_archived(make):
    journal, outbox, settings, files = make(A, B)
    archived = outbox.commit("j1", files)
    assert archived == settings.archive_dir / "k1" / "j1"
    for file in files:
        assert (archived / file.name).read_bytes() == outbox.path("j1", file.name).read_bytes() == file.read_bytes()
    assert [len(journal.owed(name)) for name in ("a", "b")] == [2, 2]
    assert journal.job("j1").state is JobState.DONE


def test_what_is_beside_the_results_is_archived_and_owed_to_nobody(make, tmp_path):
    journal, outbox, _, files = make(A)
    (tmp_path / "summary.json").write_text("{}")
    archived = outbox.commit("j1", files, beside=[tmp_path / "summary.json"])
    assert (archived / "summary.json").read_text() == "{}"
    assert not outbox.path("j1", "summary.json").exists()
    assert {delivery.file for delivery in journal.owed("a")} == {file.name for file in files}


def owed_files(journal, name):
    return [delivery.file for delivery in journal.owed(name)]


def test_a_labelmap_destination_is_owed_label_maps_in_place_and_no_other_is(make, tmp_path):
    journal, outbox, settings, files = make(A, MAPS)
    twin = result_files(tmp_path / "twins", 3)[2]
    archived = outbox.commit("j1", files, labelmaps={files[0]: twin})
    assert owed_files(journal, "a") == [files[0].name, files[1].name]
    assert owed_files(journal, "maps") == [twin.name, files[1].name]
    names = {files[0].name, files[1].name, twin.name}
    assert {path.name for path in archived.iterdir()} == names
    assert {path.name for path in (settings.outbox_dir / "j1").iterdir()} == names
    assert outbox.path("j1", twin.name).read_bytes() == twin.read_bytes()
    assert "done: 3 results" in [event.what for event in journal.events("k1")]
    for delivery in [*journal.owed("a"), *journal.owed("maps")]:
        journal.delivered(delivery.delivery_id)
    outbox.forget_delivered("j1")
    assert not (settings.outbox_dir / "j1").exists()
    assert {path.name for path in archived.iterdir()} == names


@pytest.mark.parametrize(("destination", "kept"), [(A, 0), (MAPS, 1)])
def test_the_outbox_holds_no_form_that_nobody_is_owed(make, tmp_path, destination, kept):
    _, outbox, settings, files = make(destination)
    twins = dict(
        zip(
            files,
            [path.rename(path.with_name(f"twin-{path.name}")) for path in result_files(tmp_path / "t")],
            strict=True,
        )
    )
    outbox.commit("j1", files, labelmaps=twins)
    expected = [files, list(twins.values())][kept]
    assert sorted(path.name for path in (settings.outbox_dir / "j1").iterdir()) == sorted(f.name for f in expected)


def test_without_label_maps_a_labelmap_destination_is_owed_what_there_is(make):
    journal, outbox, _, files = make(MAPS)
    outbox.commit("j1", files)
    assert owed_files(journal, "maps") == [file.name for file in files]


def test_a_label_map_of_the_name_of_another_result_is_a_fault_of_ours(make, tmp_path):
    _, outbox, _, files = make(MAPS)
    with pytest.raises(ValueError, match="have one name"):
        outbox.commit("j1", files, labelmaps={files[0]: tmp_path / "elsewhere" / files[1].name})


def test_a_second_commit_changes_nothing(make):
    journal, outbox, _, files = make(A)
    outbox.commit("j1", files)
    outbox.commit("j1", [])
    assert len(journal.owed("a")) == 2


def test_a_commit_that_was_cut_short_is_replaced(make):
    _, outbox, settings, files = make(A)
    for left in (settings.outbox_dir / "j1", settings.archive_dir / "k1" / "j1", settings.outbox_dir / ".j1.part"):
        left.mkdir(parents=True)
        (left / "old.dcm").write_bytes(b"old")
    archived = outbox.commit("j1", files)
    assert sorted(archived.iterdir()) == [archived / file.name for file in files]
    assert [path.name for path in settings.outbox_dir.iterdir()] == ["j1"]


def test_without_destinations_results_stay_in_the_archive_alone(make):
    _, outbox, settings, files = make()
    archived = outbox.commit("j1", files)
    assert len(list(archived.iterdir())) == 2
    assert list(settings.outbox_dir.iterdir()) == []


def test_the_outbox_keeps_a_job_until_all_have_all_of_it(make):
    journal, outbox, settings, files = make(A, B)
    outbox.commit("j1", files)
    for delivery in [*journal.owed("a"), *journal.owed("b")]:
        outbox.forget_delivered("j1")
        assert (settings.outbox_dir / "j1").exists()
        journal.delivered(delivery.delivery_id)
    outbox.forget_delivered("j1")
    assert not (settings.outbox_dir / "j1").exists()
    assert len(list((settings.archive_dir / "k1" / "j1").iterdir())) == 2


def test_start_up_removes_what_is_half_made_or_owed_to_nobody(make):
    _, outbox, settings, files = make(A)
    outbox.commit("j1", files)
    left = [
        settings.outbox_dir / ".j2.part",
        settings.outbox_dir / "j3",
        settings.archive_dir / "k1" / ".j4.part",
    ]
    for folder in left:
        folder.mkdir()
    outbox.reconcile()
    assert not any(folder.exists() for folder in left)
    assert len(list((settings.outbox_dir / "j1").iterdir())) == 2


def test_what_a_restored_journal_owes_is_taken_from_the_archive(make):
    """As after a backup of journal and archive alone. Before, it was tried without end."""
    journal, outbox, settings, files = make(A, B)
    outbox.commit("j1", files)
    journal.delivered(journal.owed("b")[0].delivery_id)
    shutil.rmtree(settings.outbox_dir / "j1")
    outbox.reconcile()
    for file in files:
        assert outbox.path("j1", file.name).read_bytes() == file.read_bytes()
    assert [len(journal.owed(name)) for name in ("a", "b")] == [2, 1]


def test_what_is_owed_and_nowhere_is_a_dead_letter(make):
    journal, outbox, settings, files = make(A)
    outbox.commit("j1", files)
    outbox.path("j1", files[0].name).unlink()
    (settings.archive_dir / "k1" / "j1" / files[0].name).unlink()
    outbox.reconcile()
    (left,) = journal.owed("a")
    assert left.file == files[1].name
    (dead,) = [row for row in journal.deliveries("j1") if row.file == files[0].name]
    assert dead.state is DeliveryState.DEAD
    assert "the archive has none" in dead.note


def test_a_missing_result_commits_nothing(make):
    journal, outbox, settings, files = make(A)
    files[1].unlink()
    with pytest.raises(FileNotFoundError):
        outbox.commit("j1", files)
    assert journal.owed("a") == []
    assert not (settings.archive_dir / "k1" / "j1").exists()
    assert journal.job("j1").state is JobState.PROCESSING


def test_two_results_of_one_name_are_a_fault_of_ours(make, tmp_path):
    _, outbox, _, files = make(A)
    with pytest.raises(ValueError, match="have one name"):
        outbox.commit("j1", [*files, tmp_path / "elsewhere" / files[0].name])


def test_an_unknown_job_is_a_fault_of_ours(make):
    _, outbox, _, files = make(A)
    with pytest.raises(ValueError, match="there is no job j9"):
        outbox.commit("j9", files)
