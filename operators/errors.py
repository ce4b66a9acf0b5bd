"""Why a study can end without a result.

* PipelineError
  + StudyRejected          the images cannot be used; the sender must act
    - UnreadableInstance   a file is truncated or is not DICOM
    - MissingSequence      T1C or FLAIR has no candidate
    - BrokenGeometry       slices are not parallel, not evenly spaced, or one is missing
    - UnusableImage        no brain is seen, or a registration failed
  + AnalysisFailed         the images are fine; we must act

Messages carry no patient identity: they go to logs, the journal and the command line.
"""

from __future__ import annotations

from typing import ClassVar


class PipelineError(Exception):
    """A study ended without a result; `code` names the reason for machines."""

    code: ClassVar[str] = "pipeline-error"


class StudyRejected(PipelineError):
    """The images cannot be used; the sender must act."""

    code = "study-rejected"


class UnreadableInstance(StudyRejected):
    """A file is truncated or is not DICOM."""

    code = "unreadable-instance"


class MissingSequence(StudyRejected):
    """A sequence that the analysis needs has no candidate."""

    code = "missing-sequence"


class BrokenGeometry(StudyRejected):
    """Slices are not parallel, not evenly spaced, or one is missing."""

    code = "broken-geometry"


class UnusableImage(StudyRejected):
    """No brain is seen, or a registration failed."""

    code = "unusable-image"


class AnalysisFailed(PipelineError):
    """The images are fine; we must act."""

    code = "analysis-failed"
