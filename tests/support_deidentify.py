"""Objects full of identity for the tests of de-identification, and a look for it in what comes out."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.filebase import DicomBytesIO
from pydicom.uid import Comprehensive3DSRStorage

from operators.deidentify import Deidentifier
from operators.domain import Contrast, Earlier, Predecessor
from operators.key_image import KeyImageOperator
from operators.pseudonyms import Pseudonyms
from operators.write_capture import write_captures
from operators.write_measurements import write_measurements
from operators.write_pdf import write_pdf
from operators.write_seg import write_segs
from operators.write_sr import write_sr
from tests.support_dicom import save
from tests.support_results import MADE_AT, PATIENTS, attention_on, job_of, source_of

SECRET = b"a secret that no patient knows..."
NAMES = PATIENTS | {"ISO 2022 IR 87": "Yamada^Tarou=山田^太郎=やまだ^たろう"}
ENCODINGS = ("ascii", "latin-1", "utf-8", "gb18030", "iso2022_jp", "utf-16-le")
STUDY_DAY, MADE_DAY, BIRTH, EARLIER_DAY = "20240102", "20260301", "19600117", date(2023, 11, 5)
ROOT = "1.2.840.99"
"""Of the UIDs of what was before."""
IDENTITY = {
    "PatientID": "HOSP-778899",
    "AccessionNumber": "ACC5551234",
    "StudyID": "STUDY-31",
    "ReferringPhysicianName": "Overbeck^Ottilie",
    "InstitutionName": "St Elsewhere",
    "InstitutionAddress": "Hidden Lane 12",
    "StationName": "MAGNET-SECRET",
    "OperatorsName": "Quillfeather^Quentin",
    "StudyDescription": "MRI for Dr Overbeck",
    "SeriesDescription": "AX for Quillfeather",
    "DeviceSerialNumber": "SN-424242",
    "PatientAge": "064Y",
    "PatientComments": "brother of Zebulon",
    "PatientBirthDate": BIRTH,
}
"""What the images say, on every one of them."""


def deidentifier(profile="basic", secret=SECRET) -> Deidentifier:
    return Deidentifier(Pseudonyms(secret), profile)


def identified_job(
    folder: Path, charset: str | None = "ISO_IR 192", day: str = STUDY_DAY, replaces: bool = True, **changes
):
    """A job of a named patient, compared with an earlier examination, with every kind of result written."""
    folder.mkdir(parents=True, exist_ok=True)
    declared = ["", charset] if charset == "ISO 2022 IR 87" else charset
    sources = [source_of(contrast, charset=None) for contrast in (Contrast.T1C, Contrast.FLAIR)]
    for header in (header for source in sources for header in source.headers):
        if declared:
            header.SpecificCharacterSet = declared
        header.PatientName = NAMES[charset]
        for keyword, value in (IDENTITY | changes).items():
            setattr(header, keyword, value)
        header.StudyDate = header.SeriesDate = header.ContentDate = day
        header.private_block(0x0019, "SECRET VENDOR", create=True).add_new(1, "LO", "private Zebulon")
    failed = "Earlier examinations could not all be looked for: PACS_SECRET at 10.1.2.3:104 does not answer."
    job = job_of(folder, *sources, notes=("T2 was moved by 4 mm", failed))
    job.earlier = Earlier(
        EARLIER_DAY, "1.2.840.99.5.1", 5.0, 30.0, 20.0, "1.2.840.99.5.2", "nasbranet", "1", "1.2.840.99.5.3"
    )
    before = f"{MADE_DAY}083000.000000"
    job.predecessors = tuple(
        Predecessor(n, f"{ROOT}.1", f"{ROOT}.{n}", str(Comprehensive3DSRStorage), f"{ROOT}.{n}.1", before, None)
        for n in ((9003, 9005, 9013) if replaces else ())
    )
    job.attention = (attention_on(job),)
    KeyImageOperator.process(None, job)
    write_segs(job, "1.0.0", MADE_AT, labelmap=True, probability_map=True)
    for write in (write_measurements, write_captures, write_pdf, write_sr):
        write(job, "1.0.0", MADE_AT)
    return job


def result_files(job) -> list[Path]:
    return [path for path in job.results.values() if path.suffix == ".dcm"]


def identity_of(job) -> set[str]:
    """Every string that tells who the patient is, where, or when; with the UIDs of images and results."""
    header = job.volumes[Contrast.T1C].headers[0]
    name = str(header.PatientName)
    said = {part for group in name.split("=") for part in (group, *group.split("^"))}
    for value in IDENTITY.values():
        said |= {value, *value.split("^")}
    said |= {"Zebulon", "private", "VENDOR", "PACS_SECRET", "10.1.2.3", "Overbeck", "Quillfeather"}
    for day in (STUDY_DAY, MADE_DAY, BIRTH, EARLIER_DAY.strftime("%Y%m%d")):
        said |= {day, f"{day[:4]}-{day[4:6]}-{day[6:]}"}
    headers = [header for source in job.volumes.values() for header in source.headers]
    said |= {str(header[keyword].value) for header in headers for keyword in UIDS}
    results = [dcmread(path, stop_before_pixels=True) for path in result_files(job)]
    said |= {str(result[keyword].value) for result in results for keyword in UIDS[:3]}
    return said | {ROOT}


UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")


def leaks(content: bytes, said: set[str]) -> set[str]:
    """Which of the strings are in bytes, in whatever encoding."""
    found = set()
    for text in said:
        for encoding in ENCODINGS:
            try:
                encoded = text.encode(encoding)
            except UnicodeEncodeError:
                continue
            # Fewer bytes are found in any picture.
            if len(encoded) >= 4 and encoded in content:
                found.add(text)
    return found


def encoded(ds: Dataset) -> bytes:
    buffer = DicomBytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def write_images(job, folder: Path) -> list[Path]:
    """Write the images that a job was made of, as a scanner would have."""
    written = []
    for source in job.volumes.values():
        for header, plane in zip(source.headers, source.volume.array, strict=True):
            image = Dataset()
            image.update(header)
            image.PixelData = plane.astype("<u2").tobytes()
            image["PixelData"].VR = "OW"
            image.file_meta = header.file_meta
            image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
            image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
            written.append(save(image, folder / f"{source.series.number}-{image.InstanceNumber}.dcm"))
    return written
