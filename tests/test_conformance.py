"""The conformance statement says what the code does: it is generated, and compared with objects really written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module

import pydicom
import pytest
from pydicom import uid
from pydicom.sr.coding import Code
from pynetdicom import AllStoragePresentationContexts
from pynetdicom.status import code_to_category

from app import __version__
from app.cli import conformance
from app.commitment_report import STATUSES as REPORT_STATUSES
from app.config import Settings
from app.conformance import TEMPLATE, all_codes, conformance_statement, name_of, setting_sections, table
from app.conformance_objects import COMMON, CREATED
from app.entity import TRANSFER_SYNTAXES
from app.errors import InputError
from app.refusals import FOR_GOOD, is_for_good
from app.store import STATUSES
from operators import codes
from operators.domain import Marker, MarkerName, MarkerValue, Predecessor
from operators.key_image import KeyImageOperator
from operators.write_capture import write_captures
from operators.write_measurements import write_measurements
from operators.write_pdf import write_pdf
from operators.write_seg import write_segs
from operators.write_sr import write_sr
from tests.support_results import MADE_AT, attention_on, job_of
from tests.support_study import ROOT

WRITTEN = {
    "Segmentation on T1C": "SEG T1C",
    "Label map on T1C": "SEG T1C labelmap",
    "Segmentation on FLAIR": "SEG FLAIR",
    "Label map on FLAIR": "SEG FLAIR labelmap",
    "Probability on T1C": "SEG T1C probability",
    "Report": "SR",
    "Report on label maps": "SR labelmap",
    "Key image": "key image SC",
    "Attention maps": "attention idh SC",
    "Diameters": "measurements SR",
    "Report page": "PDF",
}
"""Which of a job's results an object of the table is."""
ALSO_COPIED = {"PatientAge"}
"""What else the sources of these tests have of the Patient and Study modules."""


@pytest.fixture(scope="module")
def statement():
    return conformance_statement()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """One object of each kind, read back."""
    folder = tmp_path_factory.mktemp("results")
    marker = Marker(MarkerName.IDH, MarkerValue.ALTERED, "", 0.91, "idh-net", "2")
    job = job_of(folder, markers=(marker,), notes=("T2 was moved by 4 mm",))
    for source in job.volumes.values():
        for header in source.headers:
            header.IssuerOfPatientID = "HOSPITAL"
    before = "20260228113000.000000"
    job.predecessors = tuple(
        Predecessor(number, "1.2", f"1.2.{number}", "1.2.840.10008.5.1.4.1.1.88.34", f"1.2.{number}.1", before, None)
        for number in (9003, 9004, 9005, 9013)
    )
    job.attention = (attention_on(job),)
    KeyImageOperator.process(None, job)
    write_segs(job, "1.0.0", MADE_AT, labelmap=True, probability_map=True)
    for write in (write_measurements, write_captures, write_pdf, write_sr):
        write(job, "1.0.0", MADE_AT)
    return {title: pydicom.dcmread(job.results[kind]) for title, kind in WRITTEN.items()}


def test_the_file_is_what_the_code_gives(statement):
    remedy = "stale: .venv/bin/python -m app conformance --out docs/conformance.md"
    assert (ROOT / "docs" / "conformance.md").read_text(encoding="utf-8") == statement, remedy


def test_the_command_prints_and_writes_it(statement, tmp_path, capsys):
    conformance()
    assert capsys.readouterr().out == statement
    conformance(tmp_path / "statement.md")
    assert capsys.readouterr().out == ""
    assert (tmp_path / "statement.md").read_text(encoding="utf-8") == statement
    with pytest.raises(InputError, match="cannot be written"):
        conformance(tmp_path / "absent" / "statement.md")


def test_the_environment_of_a_deployment_does_not_change_it(statement, monkeypatch):
    monkeypatch.setenv("GLIOMA_NODE__RECEIVER__AE_TITLE", "ELSEWHERE")
    assert conformance_statement() == statement


def test_no_path_of_this_machine_and_no_open_placeholder_is_in_it(statement):
    assert str(ROOT) not in statement
    assert "{{" not in statement
    assert "{%" not in statement
    assert __version__ in statement


def test_every_transfer_syntax_and_sop_class_accepted_is_in_it(statement):
    for syntax in TRANSFER_SYNTAXES:
        assert f"| {syntax.name} | {syntax} |" in statement
    for context in AllStoragePresentationContexts:
        assert f"| {context.abstract_syntax} |" in statement


def test_every_status_is_in_it(statement):
    for status, (meaning, when) in [*STATUSES.items(), *REPORT_STATUSES.items()]:
        assert f"| 0x{status:04X} | {meaning} | {when} |" in statement


def test_every_code_is_in_it(statement):
    held = [value for name, value in vars(codes).items() if not name.startswith("__")]
    tables = [value for value in held if isinstance(value, Mapping)]
    every = {code for code in (*held, *(c for t in tables for c in t.values())) if isinstance(code, Code)}
    assert {code for code, _ in all_codes()} == every
    for code in every:
        private = code.scheme_designator == codes.PRIVATE_SCHEME
        row = (code.value, code.meaning) if private else (code.value, code.scheme_designator, code.meaning)
        assert f"| {' | '.join(row)} |" in statement


def test_context_groups_are_read_from_beside_the_codes():
    groups = {code: group for code, group in all_codes() if group}
    assert groups[codes.NEOPLASM] == "CID 7159"
    assert groups[codes.marker_value(MarkerName.PROLIFERATION, MarkerValue.ALTERED)] == "CID 75"
    text = (ROOT / "operators" / "codes.py").read_text()
    assert text.count("# CID") == len(groups)


def settings_of(entries, name):
    """The dotted name of every setting, by the models and not by their schema."""
    for key, entry in entries.items():
        kind = getattr(entry, "annotation", None)
        if type(None) in getattr(kind, "__args__", ()):
            # A section that may be left out is one all the same.
            kind = next((part for part in kind.__args__ if hasattr(part, "model_fields")), kind)
        below = {f.name: f for f in fields(kind)} if is_dataclass(kind) else getattr(kind, "model_fields", None)
        if below:
            yield from settings_of(below, f"{name}.{key}")
        else:
            yield f"{name}.{key}"
            for item in getattr(kind, "__args__", ()):
                yield from settings_of(getattr(item, "model_fields", {}), f"{name}.{key}[]")


def test_every_setting_is_in_it_with_its_meaning(statement):
    told = {f"{s.name}.{row[0].strip('`')}": row[3] for s in setting_sections() for row in s.rows}
    assert set(told) == set(settings_of(Settings.model_fields, "node"))
    assert [name for name, meaning in told.items() if not meaning] == []
    for section in setting_sections():
        assert f"#### {section.name}\n" in statement
        assert table(("Setting", "Value", "Default", "Meaning"), section.rows) in statement


def test_every_object_written_is_in_it(statement):
    assert set(WRITTEN) == {created.title for created in CREATED}
    for created in CREATED:
        cells = (created.title, name_of(created.sop_class), created.iod, created.transfer_syntax.name)
        assert f"| {' | '.join(cells)} | {created.series_number} | {created.description} |" in statement
        for syntax in (created.transfer_syntax, uid.ImplicitVRLittleEndian):
            row = (name_of(created.sop_class), created.sop_class, syntax.name, syntax)
            assert f"| {' | '.join(row)} |" in statement


def test_every_writer_has_its_row_and_every_series_its_number():
    declared = []
    for path in sorted((ROOT / "operators").glob("write_*.py")):
        writer = import_module(f"operators.{path.stem}")
        numbers = getattr(writer, "SERIES_NUMBERS", {"": getattr(writer, "SERIES_NUMBER", None)})
        declared += [(path.stem, number) for number in numbers.values() if number is not None]
    assert sorted(declared) == sorted((created.writer, created.series_number) for created in CREATED)
    assert len({number for _, number in declared}) == len(declared), "two writers share a series number"


@pytest.mark.parametrize("created", CREATED, ids=lambda created: created.title)
def test_an_object_is_as_its_row_says(created, results):
    written = results[created.title]
    assert written.SOPClassUID == created.sop_class
    assert written.SeriesNumber == created.series_number
    assert written.SeriesDescription == created.description
    assert written.file_meta.TransferSyntaxUID == created.transfer_syntax


@pytest.mark.parametrize("created", CREATED, ids=lambda created: created.title)
def test_an_object_has_the_attributes_listed_and_no_others(created, results):
    written = {element.keyword for element in results[created.title]}
    assert written - ALSO_COPIED == {*COMMON, *created.attributes}


@pytest.mark.parametrize("created", CREATED, ids=lambda created: created.title)
def test_values_that_never_change_are_as_listed(created, results):
    compared = 0
    for keyword, told in created.attributes.items():
        value = results[created.title][keyword].value
        stated = told.split(":")[0]
        if stated == stated.upper() or stated.isdigit():
            shown = "\\".join(value) if isinstance(value, pydicom.multival.MultiValue) else str(value)
            assert shown == stated, keyword
            compared += 1
    assert compared > 2


def test_what_the_sender_takes_for_a_warning_is_as_told(statement):
    """The prose has the statuses; pynetdicom has the rule."""
    warnings = {status for status in range(0x10000) if code_to_category(status) == "Warning"}
    assert warnings == {0x0001, 0x0107, 0x0116, *range(0xB000, 0xC000)}
    assert "| 0x0001, 0x0107, 0x0116, 0xBxxx | Warning |" in statement


def test_what_the_sender_takes_for_a_refusal_for_good_is_as_told(statement):
    refused = {status for status in range(0x10000) if is_for_good(status)}
    assert refused == {*range(0xA900, 0xAA00), *range(0xC000, 0xD000), *FOR_GOOD}
    assert f"| 0xA9xx, 0xCxxx, {', '.join(f'0x{status:04X}' for status in FOR_GOOD)} | Failure for good |" in statement


@pytest.mark.parametrize(
    "absent", ["Storage Commitment as SCP", "Query/Retrieve as SCP", "C-GET", "DICOMweb but for Store"]
)
def test_what_is_not_supported_is_said_at_once(statement, absent):
    overview = statement.split("## 2 ")[0]
    assert absent in overview.split("**Not supported as yet**")[1]


def test_the_template_repeats_no_code_of_ours():
    """A code stands in operators/codes.py alone; the prose names it by its constant."""
    text = (ROOT / "app" / TEMPLATE).read_text(encoding="utf-8")
    assert [code.meaning for code, _ in all_codes() if f"({code.value}, {code.scheme_designator}, " in text] == []
