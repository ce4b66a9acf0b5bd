"""Header values, however they are written."""

import pytest
from pydicom import Dataset, Sequence

from operators.headers import b_value, first, number, values

B_VALUES = [
    ("SIEMENS MR HEADER", 0x0019, 0x0C, "IS", 1000, 1000.0),
    ("GEMS_PARM_01", 0x0043, 0x39, "IS", [1000000800, 8, 0, 0], 800.0),
    ("Philips Imaging DD 001", 0x2001, 0x03, "FL", 500.0, 500.0),
]


@pytest.mark.parametrize(
    ("creator", "group", "element", "vr", "stored", "expected"), B_VALUES, ids=[b[0] for b in B_VALUES]
)
def test_each_vendors_b_value_is_read(creator, group, element, vr, stored, expected):
    ds = Dataset()
    assert b_value(ds) is None
    ds.private_block(group, creator, create=True).add_new(element, vr, stored)
    assert b_value(ds) == expected


def enhanced():
    """Functional groups as enhanced MR has them."""
    timing, echo, shared, header = Dataset(), Dataset(), Dataset(), Dataset()
    timing.RepetitionTime, echo.EffectiveEchoTime = 9000.0, 114.0
    shared.MRTimingAndRelatedParametersSequence, shared.MREchoSequence = Sequence([timing]), Sequence([echo])
    header.SharedFunctionalGroupsSequence = Sequence([shared])
    return header


def test_functional_groups_are_searched():
    assert number(enhanced(), "RepetitionTime") == 9000
    assert number(enhanced(), "EchoTime") == 114
    assert first(enhanced(), "FlipAngle") is None


@pytest.mark.parametrize(("stored", "expected"), [(12, 12.0), ([3, 4], 3.0), (None, None), ("", None)])
def test_numbers_are_read_or_absent(stored, expected):
    ds = Dataset()
    ds.EchoTime = stored
    assert number(ds, "EchoTime") == expected


def test_one_value_and_many_become_a_list():
    ds = Dataset()
    ds.ImageType, ds.Modality = ["ORIGINAL", "PRIMARY"], "MR"
    assert values(ds, "ImageType") == ["ORIGINAL", "PRIMARY"]
    assert values(ds, "Modality") == ["MR"]
    assert values(ds, "ScanOptions") == []
