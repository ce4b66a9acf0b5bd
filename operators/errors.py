"""Why a study can end without a result.

* PipelineError
  + StudyRejected          the images cannot be used; the sender must act
    - UnreadableInstance   a file is truncated or is not DICOM
    - PixelDataRefused     pixel data claim more than their header or the limits allow, or take the decoder down
    - MixedPatients        two patients share a study UID
    - MissingSequence      T1C or FLAIR has no candidate
    - BrokenGeometry       slices are not parallel, not evenly spaced, or one is missing
    - QualityStop          a quality check found the images too poor; its code is "quality-" and the check's name
    - UnusableImage        no brain is seen
      . RegistrationFailed   T1C and FLAIR could not be brought together
  + AnalysisFailed         the images are fine; we must act
    - NativeCrash          the process for native code ended in mid-work
    - TimeOut              it did not answer in time

* HistoryUnavailable       earlier examinations could not be looked for; the study goes on without
* NotDeidentified          an object cannot be de-identified, and so is not passed on

Messages carry no patient identity: they go to logs, the journal and the command line.
"""

from __future__ import annotations

from typing import ClassVar

NO_ROOM = "no-room"
"""Code of a failure that says nothing of the study, and is no error of ours: the disk took no more."""


class PipelineError(Exception):
    """A study ended without a result; `code` names the reason for machines."""

    code: ClassVar[str] = "pipeline-error"


class StudyRejected(PipelineError):
    """The images cannot be used; the sender must act."""

    code = "study-rejected"


class UnreadableInstance(StudyRejected):
    """A file is truncated or is not DICOM."""

    code = "unreadable-instance"


class PixelDataRefused(StudyRejected):
    """Pixel data claim more than their header or the limits allow, or took the decoder's process down twice."""

    code = "pixel-data-refused"


class MixedPatients(StudyRejected):
    """Images of more than one patient came under one Study Instance UID."""

    code = "mixed-patients"


class MissingSequence(StudyRejected):
    """A sequence that the analysis needs has no candidate."""

    code = "missing-sequence"


class BrokenGeometry(StudyRejected):
    """Slices are not parallel, not evenly spaced, or one is missing."""

    code = "broken-geometry"


class UnusableImage(StudyRejected):
    """No brain is seen, or a registration failed."""

    code = "unusable-image"


class RegistrationFailed(UnusableImage):
    """T1C and FLAIR could not be brought together."""

    code = "registration-failed"


class QualityStop(StudyRejected):
    """A quality check found the images too poor."""

    def __init__(self, check: str, reason: str) -> None:
        super().__init__(reason)
        self.code = f"quality-{check}"  # type: ignore[misc]


class AnalysisFailed(PipelineError):
    """The images are fine; we must act."""

    code = "analysis-failed"


class NativeCrash(AnalysisFailed):
    """The process for native code ended in mid-work."""

    code = "native-crash"


class TimeOut(AnalysisFailed):
    """The process for native code did not answer in time."""

    code = "time-out"


class HistoryUnavailable(Exception):
    """An archive could not be asked for earlier examinations; the message says which and why."""


class NotDeidentified(Exception):
    """An object cannot be de-identified; the message says why, without any value of it."""
