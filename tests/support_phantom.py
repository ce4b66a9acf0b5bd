"""Small phantoms and headers for tests of the first stages."""

from __future__ import annotations

import shutil
from copy import deepcopy
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import numpy as np
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.uid import MRImageStorage, generate_uid

from app.phantom import PhantomOptions, PhantomTruth, make_phantom
from operators.domain import Instance, Series, Study

SMALL = PhantomOptions(rows=64, columns=64, pixel_mm=3.6, slices=12, spacing_mm=11, thickness_mm=10)

FOLDER = TemporaryDirectory(prefix="phantoms-")


@lru_cache(maxsize=16)
def _made(**changes) -> PhantomTruth:
    return make_phantom(Path(mkdtemp(dir=FOLDER.name)), replace(SMALL, **changes))


def small_phantom(**changes) -> PhantomTruth:
    """A small phantom, made once a test run; its folder is read only by agreement."""
    return _made(**changes)


def copy_of(truth: PhantomTruth, folder: Path) -> Path:
    """A copy of a phantom's folder that a test may spoil."""
    return Path(shutil.copytree(truth.folder, folder / "study"))


def change(path: Path, name: str | None = None, **attributes) -> Path:
    """Rewrite a file with other attributes; under another name it becomes another instance."""
    ds = dcmread(path)
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    if name is not None:
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        path = path.with_name(name)
    ds.save_as(path)
    return path


def contact_sheet(folder: Path, png: Path, numbers: tuple[int, ...] = (4, 9, 13, 16, 18, 20)) -> None:
    """Save slices of a phantom as a picture for eyes: a row a slice, a column a sequence."""
    rows = []
    for number in numbers:
        row = []
        for contrast in ("T1", "T1C", "T2", "FLAIR"):
            pixels = dcmread(next(folder.glob(f"*_{contrast}_{number:03d}.dcm"))).pixel_array
            grey = np.clip(pixels * (255 / np.percentile(pixels, 99.7)), 0, 255).astype(np.uint8)
            row.append(np.asarray(Image.fromarray(grey).resize((256, 256))))
        rows.append(np.hstack(row))
    Image.fromarray(np.vstack(rows)).save(png)


AXIAL, SAGITTAL, CORONAL = [1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, -1], [1, 0, 0, 0, 0, -1]
T1 = {"RepetitionTime": 520, "EchoTime": 12, "ScanningSequence": "SE"}
T2 = {"RepetitionTime": 4800, "EchoTime": 102, "ScanningSequence": "SE"}
FLAIR = {"RepetitionTime": 9000, "EchoTime": 114, "InversionTime": 2500, "ScanningSequence": ["SE", "IR"]}


def header_series(number: int, description: str = "", slices: int = 24, **attributes) -> Series:
    """A series of headers alone, acquired `number` minutes after ten o'clock unless told otherwise."""
    ds = Dataset()
    ds.SOPClassUID, ds.Modality, ds.Rows, ds.Columns = MRImageStorage, "MR", 256, 256
    ds.SeriesInstanceUID, ds.SeriesNumber = f"1.2.{number}", number
    ds.ImageType, ds.SliceThickness, ds.SpacingBetweenSlices = ["ORIGINAL", "PRIMARY", "M"], 5.0, 5.0
    ds.ImageOrientationPatient, ds.PixelSpacing, ds.FrameOfReferenceUID = AXIAL, [0.9, 0.9], "1.2.9"
    ds.AcquisitionDate, ds.AcquisitionTime = "20260915", f"10{number:02d}00"
    ds.SeriesDescription = description
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return series_of(ds, slices)


def series_of(ds: Dataset, slices: int) -> Series:
    """A series whose slices share one header but for where they lie."""
    normal = np.cross(*np.array(ds.ImageOrientationPatient, float).reshape(2, 3))
    headers = []
    for k in range(slices):
        headers.append(deepcopy(ds))
        headers[-1].ImagePositionPatient = list(normal * k * ds.SpacingBetweenSlices)
    number, description = ds.get("SeriesNumber"), ds.SeriesDescription
    number = None if number is None else int(number)
    instances = tuple(Instance(Path(f"{number}-{k}.dcm"), header) for k, header in enumerate(headers))
    return Series(ds.get("SeriesInstanceUID", "1.2"), number, description or "", ds.Modality, instances)


def header_study(*series: Series) -> Study:
    """A study of such series."""
    return Study("1.2", series)
