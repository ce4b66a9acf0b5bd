"""Synthetic jobs of known truth for the tests of the result objects."""

from __future__ import annotations

import shutil
from copy import deepcopy
from datetime import datetime
from pathlib import Path

import highdicom as hd
import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from scipy.spatial.transform import Rotation

from operators.domain import (
    Attention,
    Contrast,
    Instance,
    MarkerName,
    Selection,
    Series,
    SourceVolume,
    Stack,
    Study,
    TumourMap,
    Verdict,
)
from operators.frames import single_frames
from operators.measure import measure
from operators.stage import Job
from operators.verify import object_faults

MADE_AT = datetime(2026, 3, 1, 9, 30, 15, 250000)
AXES = {
    "axial": np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]], float).T,
    "sagittal": np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]], float).T,
    "coronal": np.array([[0, 1, 0], [0, 0, -1], [1, 0, 0]], float).T,
}
"""Columns are the LPS directions of slice, row and column index."""
STACK_AXES = "HPL"
PATIENTS = {"ISO_IR 100": "Müller^Jörg", "ISO_IR 192": "Иванов^Пётр", "GB18030": "王^小东", None: "Doe^Jane"}


def affine_of(plane, spacing, shape, tilt_degrees=(0, 0, 0), centre=(0, 0, 0)):
    """An affine (slice, row, column) to LPS mm whose grid is centred on `centre`."""
    turn = Rotation.from_euler("xyz", tilt_degrees, degrees=True).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = turn @ AXES[plane] @ np.diag(spacing)
    affine[:3, 3] = np.array(centre) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def header_of(affine, index, shape, spacing, contrast, charset="ISO_IR 100"):
    """A valid classic MR header (PS3.3 A.4) of one plane."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if charset:
        ds.SpecificCharacterSet = charset
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M"]
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    ds.SOPInstanceUID = generate_uid(entropy_srcs=["instance", contrast, str(index)])
    ds.StudyDate = ds.SeriesDate = ds.ContentDate = "20240102"
    ds.StudyTime = ds.SeriesTime = ds.ContentTime = "101500"
    ds.AccessionNumber, ds.StudyID, ds.Modality = "A1", "1", "MR"
    ds.Manufacturer, ds.ManufacturerModelName, ds.DeviceSerialNumber = "Maker", "Magnet", "77"
    ds.ReferringPhysicianName = "Roe^Richard"
    ds.StudyDescription, ds.SeriesDescription = "MRI brain", f"AX {contrast}"
    ds.PatientName, ds.PatientID = PATIENTS[charset], "P-1"
    ds.PatientBirthDate, ds.PatientSex, ds.PatientAge = "19600101", "F", "064Y"
    ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions, ds.MRAcquisitionType = "SE", "NONE", "", "2D"
    ds.SliceThickness, ds.EchoTime, ds.RepetitionTime, ds.EchoTrainLength = float(spacing[0]), 10.0, 500.0, 1
    ds.PatientPosition = "HFS"
    ds.StudyInstanceUID = generate_uid(entropy_srcs=["study"])
    ds.SeriesInstanceUID = generate_uid(entropy_srcs=["series", contrast])
    ds.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame", contrast])
    ds.PositionReferenceIndicator = ""
    ds.SeriesNumber = 1 + list(Contrast).index(contrast)
    ds.InstanceNumber = index + 1
    directions = affine[:3, :3] / np.array(spacing)
    ds.ImagePositionPatient = [f"{v:.8f}"[:16] for v in affine[:3, :3] @ (index, 0, 0) + affine[:3, 3]]
    ds.ImageOrientationPatient = [f"{v:.10f}"[:16] for v in (*directions[:, 2], *directions[:, 1])]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = shape[1], shape[2]
    ds.PixelSpacing = [float(spacing[1]), float(spacing[2])]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    return ds


def source_of(contrast, plane="axial", spacing=(5.5, 0.9, 1.1), shape=(10, 64, 48), charset="ISO_IR 100", **where):
    """One series as a volume: a bright box of noise."""
    affine = affine_of(plane, spacing, shape, **where)
    headers = tuple(header_of(affine, k, shape, spacing, contrast, charset) for k in range(shape[0]))
    array = np.random.default_rng(1).uniform(50, 100, shape).astype(np.float32)
    volume = hd.Volume(array, affine, "PATIENT", frame_of_reference_uid=headers[0].FrameOfReferenceUID)
    instances = tuple(Instance(Path(f"{k}.dcm"), h) for k, h in enumerate(headers))
    first = headers[0]
    series = Series(first.SeriesInstanceUID, first.SeriesNumber, first.SeriesDescription, "MR", instances)
    return SourceVolume(series, volume, headers)


def ellipsoid(geometry, semi_axes_mm, centre_mm, samples=3):
    """The fraction of each voxel that lies in an axis-parallel ellipsoid."""
    fraction = np.zeros(geometry.spatial_shape, np.float32)
    index = np.indices(geometry.spatial_shape).reshape(3, -1).T
    steps = (np.arange(samples) + 0.5) / samples - 0.5
    for shift in np.stack(np.meshgrid(steps, steps, steps), -1).reshape(-1, 3):
        place = (index + shift) @ geometry.affine[:3, :3].T + geometry.affine[:3, 3] - centre_mm
        fraction += ((place / semi_axes_mm) ** 2).sum(1).reshape(geometry.spatial_shape) <= 1
    return fraction / samples**3


def job_of(
    folder, t1c=None, flair=None, semi_axes_mm=(14, 11, 12), centre_mm=(0, 0, 0), to_flair=None, markers=(), notes=()
):
    """A job as the writing stages meet it; `semi_axes_mm` None makes an empty tumour."""
    t1c, flair = t1c or source_of(Contrast.T1C), flair or source_of(Contrast.FLAIR)
    volumes = {Contrast.T1C: t1c, Contrast.FLAIR: flair}
    geometry = t1c.volume.get_geometry().to_patient_orientation(STACK_AXES)
    image = t1c.volume.to_patient_orientation(STACK_AXES).array
    chance = np.zeros(image.shape, np.float32) if semi_axes_mm is None else ellipsoid(geometry, semi_axes_mm, centre_mm)
    to_source = {Contrast.T1C: np.eye(4), Contrast.FLAIR: np.eye(4) if to_flair is None else to_flair}
    stack = Stack(geometry, {Contrast.T1C: image, Contrast.FLAIR: image}, image > 0, to_source, tuple(notes))
    job = Job("job", folder, folder, stack=stack, volumes=volumes, markers=tuple(markers))
    verdicts = {c: Verdict(v.series, c, f"{v.series.description} is the best {c}") for c, v in volumes.items()}
    job.selection = Selection(verdicts, tuple(verdicts.values()))
    job.study = Study(str(t1c.headers[0].StudyInstanceUID), (t1c.series, flair.series))
    job.tumour = TumourMap(geometry, chance, "nasbranet", "1.2.0")
    job.findings = measure(stack, job.tumour)
    return job


def attention_on(job, **altered):
    """What a network looked at on a job's slices of tumour, three at most: the tumour."""
    slices = tuple(int(index) for index in np.flatnonzero(job.tumour.mask.any(axis=(1, 2)))[:3])
    told = {
        "name": MarkerName.IDH, "altered": True, "probability": 0.8, "slices": slices,
        "heat": job.tumour.mask[list(slices)].astype(np.float32), "worth": "AUC 0.80, 0.70 to 0.90",
        "model": "idh resnest-mix (light)", "model_version": "0123456789ab", "read": ("T1C", "FLAIR"), "cell_mm": 32.0,
    }  # fmt: skip
    return Attention(**(told | altered))


def iod_errors(path):
    """What dciodvfy, dsrdump, the tables of Type 1 and 2, and reading back have against a file."""
    assert shutil.which("dciodvfy"), "these tests mean nothing without dciodvfy: apt-get install dicom3tools"
    return object_faults(path)


def as_multi_frame(source):
    """The same series as one multi-frame object, each plane under the one header."""
    headers = []
    for header, plane in zip(source.headers, source.volume.array, strict=True):
        image = deepcopy(header)
        image.PixelData = plane.astype(np.uint16).tobytes()
        image["PixelData"].VR = "OW"
        headers.append(image)
    uid = generate_uid(entropy_srcs=["multi-frame"])
    multi = hd.legacy.LegacyConvertedEnhancedMRImage(headers, uid, 2, generate_uid(entropy_srcs=["object"]), 1)
    del multi.PixelData
    series = Series(uid, 2, "multi-frame", "MR", tuple(single_frames(Instance(Path("multi.dcm"), multi))))
    by_place = {tuple(map(float, i.header.ImagePositionPatient)): i.header for i in series.instances}
    ordered = tuple(by_place[tuple(map(float, h.ImagePositionPatient))] for h in source.headers)
    return SourceVolume(series, source.volume, ordered)
