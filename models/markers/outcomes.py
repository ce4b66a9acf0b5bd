"""What a model said of patients it never saw: one file for networks, other models, evaluation and calibration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models.json_file import write_json


class OutcomeError(ValueError):
    """A file of outcomes cannot be used; the message says why."""


@dataclass(frozen=True)
class PatientOutcome:
    """One patient, judged by a model that was trained without them."""

    patient: str
    site: str
    fold: int
    label: int
    """1 positive, 0 negative."""
    probability: float
    """Of the positive class."""
    attention: Mapping[str, float] | None = None
    """Of a network: where its class map lies (`models.markers.attention`)."""

    def __post_init__(self) -> None:
        if self.label not in {0, 1} or not 0.0 <= self.probability <= 1.0:
            raise OutcomeError(f"{self.patient} has label {self.label} and probability {self.probability}")


@dataclass(frozen=True)
class Outcome:
    """A cross-validation's answers, each patient once."""

    marker: str
    """Name of the marker."""
    model: str
    settings: Mapping[str, Any]
    """What the model was made and trained with, as JSON holds it."""
    patients: tuple[PatientOutcome, ...]

    def __post_init__(self) -> None:
        if len({p.patient for p in self.patients}) != len(self.patients):
            raise OutcomeError(f"outcomes of {self.marker} name a patient twice")

    @property
    def labels(self) -> list[int]:
        """Labels, in the patients' order."""
        return [p.label for p in self.patients]

    @property
    def probabilities(self) -> list[float]:
        """Probabilities of the positive class, in the patients' order."""
        return [p.probability for p in self.patients]

    def save(self, path: Path) -> None:
        """Write the outcomes as JSON, whole or not at all."""
        content = asdict(self) | {"settings": dict(self.settings), "patients": [_row(p) for p in self.patients]}
        write_json(path, content)

    @classmethod
    def load(cls, path: Path) -> Outcome:
        """Read what `save` wrote; raises `OutcomeError` where it is something else."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            patients = tuple(PatientOutcome(**patient) for patient in content["patients"])
            return cls(content["marker"], content["model"], content["settings"], patients)
        except FileNotFoundError:
            raise OutcomeError(f"there is no {path}; train first") from None
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise OutcomeError(f"{path} holds no outcomes: {error}") from None


def _row(patient: PatientOutcome) -> dict[str, Any]:
    """Give a patient's outcome as data for JSON; what is not known is left out."""
    return {name: value for name, value in asdict(patient).items() if value is not None}
