"""Frames of enhanced MR as if each were a file of its own.

An enhanced object may hold one volume, or several echoes, b-values, stacks, time points and components in any order.
Taken apart into frames whose headers say what a single-frame header says, all of them are sorted, measured and read
like the files of a classic series. Objects of other kinds are left as they are.

Source: PS3.3 C.7.6.16 (functional groups), A.36 (enhanced MR), C.8.13 (their MR macros).
"""

from __future__ import annotations

from pydicom import DataElement, Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage

from operators.domain import Instance
from operators.headers import public_sequences

ENHANCED_MR = (EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage)
GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
CLASSIC_NAMES = {
    "EffectiveEchoTime": "EchoTime",
    "InversionTimes": "InversionTime",
    "FrameType": "ImageType",
    "FrameAcquisitionNumber": "AcquisitionNumber",
    "FrameAcquisitionDateTime": "AcquisitionDateTime",
    "TemporalPositionIndex": "TemporalPositionIdentifier",
    "PulseSequenceName": "SequenceName",
}
"""What single-frame MR calls attributes of enhanced MR."""
FOREIGN = {"ReferencedImageSequence", "DerivationImageSequence", "ConversionSourceAttributesSequence"}
"""Groups that speak of other images."""


def single_frames(instance: Instance) -> list[Instance]:
    """Take an enhanced MR object apart into its frames; any other instance is returned alone.

    Raises ValueError where the object's functional groups do not fit its number of frames.
    """
    header = instance.header
    if header.get("SOPClassUID") not in ENHANCED_MR or "PerFrameFunctionalGroupsSequence" not in header:
        return [instance]
    count, groups = int(header.get("NumberOfFrames") or 1), header.PerFrameFunctionalGroupsSequence
    if len(groups) != count:
        raise ValueError(f"{len(groups)} functional groups for {count} frames")
    common = _copied(header)
    for keyword in (*GROUPS, "NumberOfFrames"):
        common.pop(keyword, None)
    for shared in header.get("SharedFunctionalGroupsSequence") or ():
        common.update(_resolved(shared))
    return [Instance(instance.path, _frame(common, groups[k], k), (k,), instance.pixels_at) for k in range(count)]


def _frame(common: Dataset, groups: Dataset, place: int) -> Dataset:
    header = _copied(common)
    # A new element: setting the value would change the other frames' own.
    header["InstanceNumber"] = DataElement("InstanceNumber", "IS", place + 1)
    header.update(_resolved(groups))
    return header


def _copied(header: Dataset) -> Dataset:
    """Copy a header so that neither gains what the other does; elements are shared, as `copy.copy` shares all."""
    copied = Dataset(dict(header.items()))
    copied.file_meta = getattr(header, "file_meta", FileMetaDataset())
    implicit, little = header.original_encoding
    copied.set_original_encoding(implicit, little, header.original_character_set)
    return copied


def _resolved(groups: Dataset) -> Dataset:
    """Gather the attributes of all functional groups, under the names of single-frame MR too."""
    found = Dataset()
    for sequence in public_sequences(groups):
        if sequence.keyword not in FOREIGN:
            found.update(sequence.value[0])
    for enhanced, classic in CLASSIC_NAMES.items():
        if (value := found.get(enhanced)) not in (None, ""):
            setattr(found, classic, value)
    return found
