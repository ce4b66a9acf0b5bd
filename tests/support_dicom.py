"""Small DICOM files and node parts for tests of the network and the folders."""

from __future__ import annotations

import io
import os
import time
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage, generate_uid
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE

from app.config import InboxConfig, Peer, ReceiverConfig, SenderConfig, Settings
from app.files import INCOMING, instance_name, study_key

PEER_TITLE = "TEST_PEER"
NODE_TITLE = "GLIOMA_NODE"


def small_mr(
    study_uid: str | None = None, series_uid: str | None = None, *, size: int = 16, number: int = 1
) -> Dataset:
    """An MR image of noise, with a name that no log or record may show."""
    ds = Dataset()
    ds.SOPClassUID = MRImageStorage
    ds.SOPInstanceUID = generate_uid()
    ds.Modality = "MR"
    ds.PatientName = "Secret^Person"
    ds.PatientID = "PID-SECRET"
    ds.StudyInstanceUID = study_uid or generate_uid()
    ds.SeriesInstanceUID = series_uid or generate_uid()
    ds.InstanceNumber = number
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows = ds.Columns = size
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit = 15
    ds.PixelRepresentation = 0
    ds.PixelData = np.random.default_rng(number).integers(0, 4096, (size, size), np.uint16).tobytes()
    ds["PixelData"].VR = "OW"
    return with_meta(ds, ExplicitVRLittleEndian)


def with_meta(ds: Dataset, transfer_syntax: UID) -> Dataset:
    """Give a dataset the file meta information that its UIDs call for."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = transfer_syntax
    return ds


def save(ds: Dataset, path: Path) -> Path:
    """Write a dataset as a DICOM file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path


def node_settings(data_dir: Path, *, inbox: dict | None = None, sender: dict | None = None, **receiver) -> Settings:
    """A node on a free local port that knows one peer and has no watermark."""
    defaults = {
        "host": "127.0.0.1",
        "port": 0,
        "peers": (Peer(ae_title=PEER_TITLE),),
        "free_space_watermark_mb": 0,
        "network_timeout_seconds": 10.0,
    }
    return Settings(
        data_dir=data_dir,
        receiver=ReceiverConfig(**(defaults | receiver)),
        inbox=InboxConfig(**(inbox or {})),
        sender=SenderConfig(**(sender or {})),
    )


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def arrive(settings: Settings, ds: Dataset) -> Path:
    """Put an instance where the receiver would, long enough ago that no clock step hides it; return its folder."""
    folder = settings.inbox_dir / study_key(ds.StudyInstanceUID)
    modified = folder.stat().st_mtime if folder.exists() else 1_000_000.0
    save(ds, folder / instance_name(ds.SOPInstanceUID))
    os.utime(folder, (modified + 1, modified + 1))
    incoming = settings.inbox_dir / INCOMING
    incoming.mkdir(exist_ok=True)
    came = incoming.stat().st_mtime
    os.utime(incoming, (came + 1, came + 1))
    return folder


def result_files(folder: Path, count: int = 2) -> list[Path]:
    """Write what a pipeline might have written."""
    return [save(small_mr(number=number), folder / f"result-{number}.dcm") for number in range(count)]


def send_bytes(association: Association, sop_class: UID, instance_uid: str, content: bytes) -> int:
    """C-STORE bytes as they are, whatever they hold; returns the status."""
    request = C_STORE()
    request.MessageID = 1
    request.Priority = 2
    request.AffectedSOPClassUID = sop_class
    request.AffectedSOPInstanceUID = instance_uid
    request.DataSet = io.BytesIO(content)
    association._reactor_checkpoint.clear()
    while not association._is_paused:
        time.sleep(0.001)
    association.dimse.send_msg(request, 1)
    _, answer = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    return answer.Status
