"""How the phantom's images become DICOM files: one a slice, or one enhanced object a series, in any syntax."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileDataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from app.phantom_enhanced import as_enhanced
from app.phantom_headers import file_meta, uid
from operators.domain import FloatArray

UNCOMPRESSED = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)


def write_images(
    folder: Path, name: str, images: Iterator[Dataset], transfer_syntax: str, *, enhanced: bool = False
) -> list[Path]:
    """Write the images of one series into a folder; `name` begins every file's name."""
    if enhanced:
        return [save_image(as_enhanced(list(images)), folder / f"{name}.dcm", transfer_syntax)]
    return [save_image(ds, folder / f"{name}_{ds.InstanceNumber:03d}.dcm", transfer_syntax) for ds in images]


def slices_of(header: Dataset, affine: NDArray[np.float64], image: FloatArray, *, rescale: bool) -> Iterator[Dataset]:
    """Make one single-frame image a plane of a series; the header gains what its grid decides.

    `affine` maps (slice, row, column) to LPS mm. With `rescale` each slice is stored with a slope and an intercept of
    its own.
    """
    _describe_grid(header, affine, image)
    for number, plane in enumerate(image):
        yield _slice(header, affine[:3, 3] + affine[:3, 0] * number, number, plane, rescale=rescale)


def _describe_grid(header: Dataset, affine: NDArray[np.float64], image: FloatArray) -> None:
    pixel_row, pixel_column = np.linalg.norm(affine[:3, 1:3], axis=0)
    along_column, along_row = affine[:3, 1] / pixel_row, affine[:3, 2] / pixel_column
    header.ImageOrientationPatient = [f"{v:.10f}" for v in (*along_row, *along_column)]
    header.PixelSpacing = [f"{pixel_row:.6f}", f"{pixel_column:.6f}"]
    header.Rows, header.Columns = image.shape[1:]
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 12, 11, 0
    header.WindowCenter = round(float(np.percentile(image, 99)) / 2)
    header.WindowWidth = 2 * int(header.WindowCenter)


def _slice(header: Dataset, position: NDArray[np.float64], number: int, plane: FloatArray, *, rescale: bool) -> Dataset:
    ds = Dataset()
    ds.update(header)
    ds.SOPInstanceUID = uid(header.SeriesInstanceUID, number)
    ds.InstanceNumber = number + 1
    ds.ImagePositionPatient = [f"{v:.6f}" for v in position]
    normal = np.cross(*np.array(ds.ImageOrientationPatient, float).reshape(2, 3))
    ds.SliceLocation = f"{position @ normal:.4f}"
    if rescale:
        slope, intercept = 0.5 + 0.03 * number, -4.0 * number
        ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = f"{slope:.6f}", f"{intercept:.1f}", "US"
        plane = (plane - intercept) / slope
    elif header.Manufacturer.startswith("Philips") and ds.Modality == "MR":
        ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = "1.25", "0", "US"
        plane = plane / 1.25
    ds.PixelData = np.clip(np.rint(plane), 0, 4095).astype("<u2").tobytes()
    return ds


def save_image(ds: Dataset, path: Path, transfer_syntax: str = ExplicitVRLittleEndian) -> Path:
    """Write one image of 16-bit little-endian pixel data, turned or compressed as the transfer syntax wants it."""
    little = transfer_syntax != ExplicitVRBigEndian
    implicit = transfer_syntax == ImplicitVRLittleEndian
    file = FileDataset(path.name, ds, b"\0" * 128, file_meta(ds), is_implicit_VR=implicit, is_little_endian=little)
    if transfer_syntax not in UNCOMPRESSED:
        file.compress(UID(transfer_syntax), generate_instance_uid=False)
    elif transfer_syntax != ExplicitVRLittleEndian:
        file.file_meta.TransferSyntaxUID = UID(transfer_syntax)
        file["PixelData"].VR = "OW"
        if not little:
            file.PixelData = np.frombuffer(file.PixelData, "<u2").byteswap().tobytes()
    file.save_as(path, enforce_file_format=True)
    return path
