"""De-identified copies on their way to a destination and into a folder; the secret; and what happens when it fails."""

from __future__ import annotations

import multiprocessing
import shutil
import stat

import pydicom
import pytest

from app.config import Destination, load_settings
from app.deidentify import copy_folder, open_deidentifier
from app.deidentify_secret import read_secret
from app.delivery import Sender
from app.doctor import examine
from app.errors import ConfigError, InputError
from app.files import PART
from app.journal import DeliveryState, Journal
from app.outbox import Outbox
from app.tally import DeliveryTally
from operators import deidentify
from operators.errors import NotDeidentified
from operators.results import save as write
from operators.verify import verify_folder
from tests.support_deidentify import deidentifier, identified_job, identity_of, leaks, result_files, write_images
from tests.support_dicom import node_settings, save, small_mr
from tests.test_cli import run

PACS = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 1}
RESEARCH = {"name": "research", "ae_title": "R", "host": "127.0.0.1", "port": 2, "deidentify": "basic"}
MAPS = RESEARCH | {"name": "maps", "segmentation": "labelmap", "deidentify": "shifted-dates"}


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    return identified_job(tmp_path_factory.mktemp("job"))


@pytest.fixture
def node(tmp_path):
    """Open the node's journal and outbox with some destinations; a second call is a restart with other settings."""
    journals = []

    def start(*destinations):
        settings = node_settings(tmp_path / "node", sender={"destinations": [Destination(**d) for d in destinations]})
        journal = Journal(settings.journal_path)
        journals.append(journal)
        if journal.job("j1") is None:
            journal.study_arriving("k1", "1.2.3")
            journal.job_ready("j1", "k1", 4)
            journal.take_ready()
        tally = DeliveryTally(multiprocessing.get_context("spawn"), 1, [d["name"] for d in destinations])
        return journal, Outbox(settings, journal, tally), settings

    yield start
    for journal in journals:
        journal.close()


def commit(outbox, job):
    twins = {"SEG T1C": "SEG T1C labelmap", "SEG FLAIR": "SEG FLAIR labelmap", "SR": "SR labelmap"}
    labelmaps = {job.results[kind]: job.results[twin] for kind, twin in twins.items()}
    outbox.commit("j1", [f for f in result_files(job) if f not in labelmaps.values()], (), labelmaps)


def contents(outbox, journal, name):
    return {row.file: outbox.path_of(row).read_bytes() for row in journal.owed(name)}


def test_each_destination_is_owed_its_own_form(node, job):
    journal, outbox, settings = node(PACS, RESEARCH, MAPS)
    commit(outbox, job)
    said = identity_of(job)
    pacs, research, maps = (contents(outbox, journal, name) for name in ("pacs", "research", "maps"))
    assert {"sr.dcm", "report.pdf.dcm", "seg_t1c.dcm"} <= set(pacs)
    assert all(leaks(content, said) for content in pacs.values())
    assert {"basic-sr.dcm", "basic-seg_t1c.dcm", "basic-measurements.dcm", "basic-key_image.dcm"} <= set(research)
    assert {"shifted-dates-sr_labelmap.dcm", "shifted-dates-seg_t1c_labelmap.dcm"} <= set(maps)
    assert len(research) == len(maps) == len(pacs) - 1, "all but the page"
    assert not any(leaks(content, said) for content in (*research.values(), *maps.values()))
    archived = settings.archive_dir / "k1" / "j1"
    assert not [p for p in archived.iterdir() if p.name.startswith(("basic-", "shifted"))], "originals alone are kept"
    assert not list(settings.outbox_dir.glob(f".*{PART}"))


def test_copies_leave_the_outbox_once_all_have_them(node, job):
    journal, outbox, settings = node(PACS, RESEARCH)
    commit(outbox, job)
    outbox.reconcile()
    for name in ("pacs", "research"):
        assert (settings.outbox_dir / "j1").exists()
        for row in journal.owed(name):
            journal.delivered(row.delivery_id)
        outbox.forget_delivered("j1")
    assert not (settings.outbox_dir / "j1").exists()


def test_the_journal_holds_no_identity(node, job, tmp_path):
    journal, outbox, _ = node(RESEARCH)
    commit(outbox, job)
    journal.close()
    said = identity_of(job) - {"private"}
    for path in (tmp_path / "node").glob("journal.sqlite*"):
        assert not leaks(path.read_bytes(), said), path.name


def failing(monkeypatch, modality):
    whole = deidentify._Run.finished

    def finished(self):
        if self._original.Modality == modality:
            raise NotDeidentified("it holds what it must not")
        return whole(self)

    monkeypatch.setattr(deidentify._Run, "finished", finished)


def test_what_cannot_be_deidentified_is_a_dead_letter_and_never_sent(node, job, monkeypatch, caplog):
    failing(monkeypatch, "SR")
    journal, outbox, _ = node(PACS, RESEARCH)
    commit(outbox, job)
    dead = [row for row in journal.deliveries("j1") if row.state is DeliveryState.DEAD]
    assert {(row.destination, row.file) for row in dead} == {
        ("research", "basic-sr.dcm"), ("research", "basic-measurements.dcm"),
    }  # fmt: skip
    assert {row.note for row in dead} == {"not sent: it holds what it must not"}
    assert not any(outbox.path_of(row).exists() for row in dead)
    assert {label: count for label, count in outbox._tally.read().items() if count} == {("research", "dead"): 2}
    assert {"basic-seg_t1c.dcm", "basic-key_image.dcm"} <= {row.file for row in journal.owed("research")}
    assert len(journal.owed("pacs")) == 8, "the others get all"
    assert not leaks(caplog.text.encode(), identity_of(job))
    monkeypatch.undo()
    # A version that can: the copies are made at its start, and go when a person asks.
    outbox.reconcile()
    assert all(outbox.path_of(row).exists() for row in dead)
    assert not leaks(outbox.path_of(dead[0]).read_bytes(), identity_of(job))


def test_what_was_owed_before_the_setting_was_made_is_not_sent_as_it_is(node, job):
    plain = {k: v for k, v in RESEARCH.items() if k != "deidentify"}
    journal, outbox, _ = node(plain)
    commit(outbox, job)
    assert "sr.dcm" in contents(outbox, journal, "research")
    journal, outbox, _ = node(RESEARCH)
    assert not any(outbox.path_of(row).exists() for row in journal.owed("research")), "not before it is de-identified"
    outbox.reconcile()
    after = contents(outbox, journal, "research")
    assert set(after) == {f.name for f in result_files(job) if "labelmap" not in f.name} - {"report.pdf.dcm"}
    assert not any(leaks(content, identity_of(job)) for content in after.values())
    (page,) = [row for row in journal.deliveries("j1") if row.state is DeliveryState.DEAD]
    assert page.file == "report.pdf.dcm"
    assert "document" in page.note


def test_another_profile_makes_other_copies(node, job):
    journal, outbox, _ = node(RESEARCH)
    commit(outbox, job)
    journal, outbox, _ = node(RESEARCH | {"deidentify": "shifted-dates"})
    outbox.reconcile()
    report = next(outbox.path_of(row) for row in journal.owed("research") if row.file == "basic-sr.dcm")
    assert pydicom.dcmread(report).LongitudinalTemporalInformationModified == "MODIFIED"


def test_the_sender_never_takes_an_original_for_a_copy(node, job, listen, tmp_path):
    """Through a real sender and a real receiver: a setting that is made while results are owed."""
    port = listen(peers=({"ae_title": "GLIOMA_NODE"},))
    at = {"ae_title": "GLIOMA_NODE", "port": port, "name": "research", "host": "127.0.0.1"}
    journal, outbox, _ = node(at)
    commit(outbox, job)
    journal, outbox, settings = node(at | {"deidentify": "basic"})
    sender = Sender(settings.sender, journal, outbox)
    for run_of_it in sender._runs:
        run_of_it._deliver_due()
    assert all(row.attempts == 1 and row.state is DeliveryState.OWED for row in journal.deliveries("j1"))
    received = [p for p in (tmp_path / "node").rglob("*.dcm") if "inbox" in p.parts]
    assert not received


# The secret


def test_a_secret_is_made_at_first_use_for_its_user_alone_and_stays(tmp_path):
    settings = node_settings(tmp_path / "node")
    first = read_secret(settings)
    path = tmp_path / "node" / "deidentification.secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(first) == 64
    assert read_secret(settings) == first
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_secret_can_be_given_by_file_or_environment(tmp_path, monkeypatch):
    (tmp_path / "mine").write_text("x" * 40 + "\n")
    by_file = load_settings(None, data_dir=tmp_path, deidentification={"secret_file": tmp_path / "mine"})
    assert read_secret(by_file) == b"x" * 40
    monkeypatch.setenv("GLIOMA_NODE__DEIDENTIFICATION__SECRET", "y" * 40)
    by_environment = load_settings(None, data_dir=tmp_path)
    assert read_secret(by_environment) == b"y" * 40
    assert "yyyy" not in repr(by_environment) + by_environment.model_dump_json()


@pytest.mark.parametrize(("content", "complaint"), [(None, "No such file"), (b"short", "32 characters at least")])
def test_a_secret_that_is_none_stops_the_node_with_one_line(tmp_path, content, complaint):
    if content is not None:
        (tmp_path / "mine").write_bytes(content)
    settings = load_settings(None, data_dir=tmp_path, deidentification={"secret_file": tmp_path / "mine"})
    with pytest.raises(ConfigError, match=complaint) as caught:
        open_deidentifier(settings, "basic")
    assert "short" not in str(caught.value).replace(str(tmp_path), "")


def test_a_short_secret_is_refused_without_being_quoted(monkeypatch):
    monkeypatch.setenv("GLIOMA_NODE__DEIDENTIFICATION__SECRET", "tooshort")
    with pytest.raises(ConfigError, match=r"node\.deidentification\.secret") as caught:
        load_settings(None)
    assert "tooshort" not in str(caught.value)


def test_an_unknown_profile_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="deidentify"):
        load_settings(None, sender={"destinations": [RESEARCH | {"deidentify": True}]})


def test_doctor_looks_at_the_secret(tmp_path):
    settings = node_settings(tmp_path, sender={"destinations": [Destination(**RESEARCH)]})
    open_deidentifier(settings, "basic")
    found = [check for check in examine(settings) if check.subject == "de-identification"]
    assert [check.ok for check in found] == [True]
    (tmp_path / "deidentification.secret").chmod(0o644)
    (check,) = (check for check in examine(settings) if check.subject == "de-identification")
    assert check.warns
    assert "chmod 600" in check.remedy


# A folder


def test_a_folder_of_images_fits_the_results_that_a_destination_got(node, job, tmp_path):
    journal, outbox, settings = node(RESEARCH)
    commit(outbox, job)
    write_images(job, tmp_path / "images" / "Zebulon")
    copies = copy_folder(tmp_path / "images", tmp_path / "out", open_deidentifier(settings, "basic"))
    assert (len(copies.made), copies.left_out) == (20, {})
    images = [pydicom.dcmread(path) for path in copies.made]
    seg = pydicom.dcmread(next(outbox.path_of(r) for r in journal.owed("research") if r.file == "basic-seg_t1c.dcm"))
    referred = {str(item.ReferencedSOPInstanceUID) for item in seg.SourceImageSequence}
    assert referred <= {str(ds.SOPInstanceUID) for ds in images}
    assert {ds.PatientID for ds in images} == {seg.PatientID}
    for path in copies.made:
        assert path.relative_to(tmp_path / "out").parts == (
            str(pydicom.dcmread(path).SeriesInstanceUID), f"{pydicom.dcmread(path).SOPInstanceUID}.dcm",
        )  # fmt: skip
        assert not leaks(path.read_bytes(), identity_of(job))


def folder_of_all_kinds(folder, job):
    """One image, the results, and what cannot be de-identified."""
    save(small_mr(), folder / "image.dcm")
    burned = small_mr()
    burned.BurnedInAnnotation = "YES"
    save(burned, folder / "burned.dcm")
    shutil.copy(folder / "image.dcm", folder / "twice.dcm")
    (folder / "notes.txt").write_text("Zebulon")
    (folder / "cut.dcm").write_bytes((folder / "image.dcm").read_bytes()[:400])
    for path in result_files(job):
        shutil.copy(path, folder / path.name)
    return folder


def test_what_is_left_out_is_named_with_its_reason(job, tmp_path):
    folder = folder_of_all_kinds(tmp_path / "in", job)
    copies = copy_folder(folder, tmp_path / "out", deidentifier())
    assert {path.name: why for path, why in copies.left_out.items()} == {
        "cut.dcm": "it lacks a UID: is it whole?",
        "burned.dcm": "its pixels hold text (Burned In Annotation)",
        "twice.dcm": "it has the SOP Instance UID of a file before it",
        "notes.txt": "it is not a DICOM file",
        "report.pdf.dcm": "it is a document, whose pages cannot be cleaned",
    }
    assert len(copies.made) == len(result_files(job))
    assert not list(tmp_path.glob(".out*"))


def test_a_failure_leaves_nothing_half_written(job, tmp_path, monkeypatch):
    folder = folder_of_all_kinds(tmp_path / "in", job)
    with pytest.raises(KeyboardInterrupt):
        copy_folder(folder, tmp_path / "out", deidentifier(), lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


@pytest.mark.parametrize("case", ["holds something", "is a file", "inside", "nothing in it"])
def test_a_folder_that_cannot_be_used_is_refused_in_one_line(tmp_path, case):
    folder, out = tmp_path / "in", tmp_path / "out"
    save(small_mr(), folder / "a.dcm")
    if case == "holds something":
        save(small_mr(), out / "b.dcm")
    elif case == "is a file":
        out.write_text("mine")
    elif case == "inside":
        out = folder / "out"
    else:
        (folder / "a.dcm").write_text("not DICOM")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=r"overwritten|inside|no file that can be"):
        copy_folder(folder, out, deidentifier())
    assert sorted(tmp_path.rglob("*")) == before


def test_the_command_says_what_it_did(job, tmp_path):
    config = tmp_path / "node.yaml"
    config.write_text(f"node: {{data_dir: {tmp_path / 'data'}}}\n")
    write_images(job, tmp_path / "in")
    done = run("deidentify", tmp_path / "in", "--out", tmp_path / "out", "--config", config)
    assert (done.returncode, done.stdout.split(" into ")[0]) == (0, "20 of 20 files de-identified"), done.stderr
    assert not leaks((done.stdout + done.stderr).encode(), identity_of(job))
    again = run("deidentify", tmp_path / "in", "--out", tmp_path / "out", "--config", config)
    assert again.returncode == 2
    assert "is not overwritten" in again.stderr
    folder_of_all_kinds(tmp_path / "mixed", job)
    mixed = run("deidentify", tmp_path / "mixed", "--out", tmp_path / "two", "-c", config, "--profile", "shifted-dates")
    assert mixed.returncode == 1
    assert "burned.dcm" in mixed.stdout
    made = list((tmp_path / "two").rglob("*.dcm"))
    assert pydicom.dcmread(made[0]).LongitudinalTemporalInformationModified == "MODIFIED"
    assert verify_folder(tmp_path / "two")
    assert run("deidentify", tmp_path / "absent", "--out", tmp_path / "x", "-c", config).returncode == 2


def test_an_element_that_cannot_be_written_costs_nothing_however_deep_it_lies(tmp_path):
    inner = pydicom.Dataset()
    inner.add_new("Rows", "US", 1)
    inner["Rows"]._value = 70_000  # as a broken file can have it
    for _ in range(14):
        outer = pydicom.Dataset()
        outer.AnatomicRegionSequence = [inner]
        inner = outer
    image = small_mr()
    image.AnatomicRegionSequence = [inner]
    with pytest.raises(OSError, match="ushort format") as raised:
        write(image, tmp_path / "deep.dcm")
    assert len(str(raised.value)) < 1_000, "twice as long at each level, of thirty or more"
