"""What else lies in a hospital's study: series beside the four, to be told apart and left alone.

Each function adds one or two series to a phantom's folder and returns their Series Instance UIDs. Their headers are
what scanners write; their pictures are made of the four sequences' and only roughly like such images.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset

from app.phantom import PhantomTruth, Plane, phantom_image, phantom_truth
from app.phantom_files import slices_of, write_images
from app.phantom_headers import Vendor, mr_header, study_header, uid
from operators.domain import Contrast, FloatArray

FIRST_NUMBER = 20
"""Series Number of the first of these series: after the four."""
NAMES = ("localizer", "diffusion", "ADC", "dual echo", "subtraction", "reformat")


def _header(truth: PhantomTruth, name: str, like: Contrast, **changes: Any) -> Dataset:
    """Header of one extra series: that of a sequence with changes, None removes."""
    options = truth.options
    study = study_header(options.identity, options.age_years)
    ds = mr_header(study, options.identity, options.vendor, like, volumetric=False)
    number = FIRST_NUMBER + NAMES.index(name)
    ds.SeriesInstanceUID, ds.SeriesNumber = uid(options.identity, "series", name), number
    ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = f"10{number:02d}30"
    ds.SliceThickness, ds.SpacingBetweenSlices = options.thickness_mm, options.spacing_mm
    for keyword, value in changes.items():
        if value is None:
            ds.pop(keyword, None)
        else:
            setattr(ds, keyword, value)
    ds.ProtocolName = ds.SeriesDescription
    return ds


def _write(truth: PhantomTruth, name: str, sets: Iterable[tuple[Dataset, PhantomTruth, Contrast, FloatArray]]) -> str:
    """Write sets of slices as one series, instances numbered through."""
    images: list[Dataset] = []
    for header, where, contrast, image in sets:
        for ds in slices_of(header, where.grid(contrast).affine, image, rescale=False):
            ds.InstanceNumber = len(images) + 1
            ds.SOPInstanceUID = uid(ds.SeriesInstanceUID, len(images))
            images.append(ds)
    options = truth.options
    stem = f"{images[0].SeriesNumber:02d}_{name.replace(' ', '_')}"
    write_images(truth.folder, stem, iter(images), options.transfer_syntax, enhanced=options.enhanced)
    return str(images[0].SeriesInstanceUID)


def add_localizer(truth: PhantomTruth) -> str:
    """Add a localizer: three slices in each of the three planes, in one series."""
    sets = []
    for plane in Plane:
        options = replace(
            truth.options, plane=plane, tilt_degrees=(0, 0, 0), slices=3, spacing_mm=20.0, thickness_mm=8.0
        )
        header = _header(
            truth,
            "localizer",
            Contrast.T1,
            SeriesDescription="localizer",
            ScanningSequence="GR",
            SequenceVariant=["SP", "OSP"],
            RepetitionTime=8.6,
            EchoTime=4.0,
            FlipAngle=20,
            SliceThickness=8.0,
            SpacingBetweenSlices=20.0,
        )
        where = phantom_truth(Path(), options)
        sets.append((header, where, Contrast.T1, phantom_image(where, Contrast.T1)))
    return _write(truth, "localizer", sets)


def add_diffusion(truth: PhantomTruth, description: str = "ep2d_diff_b0_b1000") -> tuple[str, str]:
    """Add diffusion with b-values 0 and 1000 in one series, and the ADC map of it in another."""
    shared = {"SeriesDescription": description, "RepetitionTime": 5100, "EchoTime": 94, "ScanningSequence": "EP"}
    shared |= {"SequenceVariant": "SK", "EchoTrainLength": 1, "FlipAngle": 90, "InversionTime": None}
    image = phantom_image(truth, Contrast.T2)
    weighted = image * np.float32(0.35)
    sets = []
    for b, picture in ((0, image), (1000, weighted)):
        header = _header(truth, "diffusion", Contrast.T2, DiffusionBValue=float(b), **shared)
        if truth.options.vendor is Vendor.SIEMENS:
            header.ImageType = ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE", "ND", "NORM"]
            header.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0C, "IS", b)
        sets.append((header, truth, Contrast.T2, picture))
    adc_type = ["DERIVED", "PRIMARY", "DIFFUSION", "ADC", "ND", "NORM"]
    adc = _header(
        truth, "ADC", Contrast.T2, **(shared | {"SeriesDescription": f"{description}_ADC"}), ImageType=adc_type
    )
    return _write(truth, "diffusion", sets), _write(truth, "ADC", [(adc, truth, Contrast.T2, image)])


def add_dual_echo(truth: PhantomTruth) -> str:
    """Add a dual echo: proton density and T2 in one series."""
    sets = []
    for echo, (time, scale) in enumerate(((14.0, 0.6), (102.0, 1.0)), start=1):
        header = _header(
            truth, "dual echo", Contrast.T2, SeriesDescription="pd+t2_tse_tra", EchoTime=time, EchoNumbers=echo
        )
        sets.append((header, truth, Contrast.T2, phantom_image(truth, Contrast.T2) * np.float32(scale)))
    return _write(truth, "dual echo", sets)


def add_subtraction(truth: PhantomTruth) -> str:
    """Add the difference of T1C and T1, as consoles compute it."""
    header = _header(
        truth,
        "subtraction",
        Contrast.T1C,
        SeriesDescription="t1_se_tra_SUB",
        ImageType=["DERIVED", "PRIMARY", "M", "ND", "NORM", "SUB"],
    )
    still = phantom_truth(truth.folder, replace(truth.options, motion={}))
    difference = phantom_image(still, Contrast.T1C) - phantom_image(still, Contrast.T1)
    return _write(truth, "subtraction", [(header, truth, Contrast.T1C, np.maximum(difference, 0))])


def add_reformat(truth: PhantomTruth, like: Contrast = Contrast.T1C) -> str:
    """Add a coronal reformat of a sequence."""
    header = _header(
        truth,
        "reformat",
        like,
        SeriesDescription="COR MPR",
        ImageType=["DERIVED", "SECONDARY", "REFORMATTED", "AVERAGE"],
    )
    where = phantom_truth(Path(), replace(truth.options, plane=Plane.CORONAL))
    return _write(truth, "reformat", [(header, where, like, phantom_image(where, like))])
