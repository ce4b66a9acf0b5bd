"""Judge a marker's figure model on a folder of labelled patients, as the node would read them.

Each patient is prepared, the tumour found, the model asked, its score calibrated and called or left open by the same
code as in the node. What the model learnt from is known where its outcomes are: figures of such patients are no
measure of how it does on new ones, and are marked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import models
from models.brain import BrainNotFound
from models.markers.calibration import Calibration
from models.markers.crossval import OUTCOMES
from models.markers.figure_model import FigureModel, doubt, is_child
from models.markers.found import Finder, Sight, described
from models.markers.labels import Subject
from models.markers.metrics import Estimate, auc, by_site, measure_what_can_be
from models.markers.outcomes import Outcome, PatientOutcome
from models.provenance import CARDS, taught_network
from models.training import data
from models.training.metrics import mean_interval

HOME = Path(models.__file__).parent
FOLDERS: Mapping[str, str] = {"idh": "idh", "codel": "1p19q", "mgmt": "mgmt", "proliferation": "proliferation"}
"""Where in models/weights/markers the model of each marker lies."""
NOT_ASSESSED, INDETERMINATE = "not assessed", "indeterminate"
NO_T1C, NO_BRAIN, NO_TUMOUR = "no true T1 with contrast agent", "no brain is seen", "no tumour was found"
OUTSIDE = "no tumour lies within the brain"
SECOND_CASE = "another case of the same patient is judged"


@dataclass(frozen=True)
class Judged:
    """A patient whom the model was asked about."""

    subject: Subject
    score: float
    """Log odds, as the model has them."""
    probability: float
    """Calibrated."""
    verdict: str
    reason: str
    """Why the marker is not assessed, in the node; empty where it is."""

    def content(self) -> dict[str, Any]:
        """Say it as data for JSON."""
        return {
            **_who(self.subject), "probability": self.probability, "score": self.score, "verdict": self.verdict,
            "reason": self.reason or None,
        }  # fmt: skip


@dataclass(frozen=True)
class NotAssessable:
    """A patient of whom there is nothing to ask the model about."""

    subject: Subject
    reason: str

    def content(self) -> dict[str, Any]:
        """Say it as data for JSON."""
        return {**_who(self.subject), "verdict": NOT_ASSESSED, "reason": self.reason}


@dataclass(frozen=True)
class Learnt:
    """Whom a model and the network that outlines for it have seen, as far as that is on record."""

    by_model: frozenset[str] | None
    """None where nothing tells it."""
    by_network: frozenset[str] | None = frozenset()
    """None as above; nobody where tumours are outlined by hand."""
    threshold: float | None = None
    """Of a score: the model learnt to tell what lies above it."""

    @property
    def on_record(self) -> bool:
        """Whether both are known."""
        return self.by_model is not None and self.by_network is not None

    @property
    def everyone(self) -> frozenset[str]:
        """All patients who are known to have taught either."""
        return (self.by_model or frozenset()) | (self.by_network or frozenset())

    def with_network(self, version: str) -> Learnt:
        """Add whom the segmenting network of a version saw: its card names the version that it is about."""
        return replace(self, by_network=taught_network(version))


def learnt_from(marker: str, folder: Path, calibration: Calibration) -> Learnt:
    """Find out from whom the model in `folder` learnt: by the outcomes beside it, or those of the cards.

    Outcomes are a model's where their AUC is the one that its calibration states.
    """
    for path in (folder / OUTCOMES, CARDS / "markers" / f"{marker}.{OUTCOMES}"):
        if not path.is_file():
            continue
        outcome = Outcome.load(path)
        area = auc(np.array(outcome.labels), np.array(outcome.probabilities))
        if abs(area - calibration.auc) < 1e-6:
            patients = frozenset(p.patient for p in outcome.patients)
            return Learnt(patients, threshold=outcome.settings.get("threshold"))
    return Learnt(None)


def judge_all(
    subjects: Iterable[Subject], judge: Callable[[Subject], Judged | NotAssessable]
) -> Iterable[Judged | NotAssessable]:
    """Judge each patient once: by the first case that can be."""
    done: set[str] = set()
    for subject in subjects:
        found = NotAssessable(subject, SECOND_CASE) if subject.patient in done else judge(subject)
        if isinstance(found, Judged):
            done.add(subject.patient)
        yield found


def judge_case(
    subject: Subject, model: FigureModel, finder: Finder, cache: Path, *, drawn: bool = False
) -> Judged | NotAssessable:
    """Ask a model about one case."""
    if not subject.case.has_t1c:
        return NotAssessable(subject, NO_T1C)
    try:
        prepared = data.prepare(subject.case, cache)
    except BrainNotFound:
        return NotAssessable(subject, NO_BRAIN)
    except data.DataError as error:  # one patient's files cost nobody else's answer
        return NotAssessable(subject, str(error))
    sight = finder.see(prepared, drawn=drawn)
    if not sight.tumour.any():
        return NotAssessable(subject, NO_TUMOUR)
    figures = described(subject.case, sight.view, sight.tumour, cache)
    if figures is None:
        return NotAssessable(subject, OUTSIDE)
    score = model.score(figures, subject.age_years)
    reason = silence(sight, subject.age_years) or model.calibration.withheld
    verdict = NOT_ASSESSED if reason else model.calibration.verdict(score).value
    return Judged(subject, score, model.calibration.probability(score), verdict, reason)


def silence(sight: Sight, age_years: float | None) -> str:
    """Say why the node would read no marker from this, or nothing."""
    child = age_years is not None and is_child(age_years)
    return doubt(child=child, images=sight.images_doubtful, outline=sight.outline_doubtful)


@dataclass(frozen=True)
class Report:
    """What came of it."""

    judged: Sequence[Judged]
    not_assessable: Sequence[NotAssessable]
    threshold: float = 0.5
    """Probability from which a patient counts as positive."""

    @property
    def outcome(self) -> Outcome:
        """The answers in the form that training's have."""
        rows = (PatientOutcome(j.subject.patient, j.subject.case.site, 0, j.subject.label, j.probability)
                for j in self.judged)  # fmt: skip
        return Outcome("", "figures", {}, tuple(rows))

    def figures(self) -> dict[str, Estimate | None]:
        """Give every figure by name, None where it cannot be measured: of scores, of verdicts, of their coverage."""
        outcome = self.outcome
        called = [j for j in self.judged if j.verdict not in {NOT_ASSESSED, INDETERMINATE}]
        right = [float((j.verdict == "altered") == bool(j.subject.label)) for j in called]
        names = {j.subject.patient for j in called}
        everyone = {j.subject.patient for j in self.judged} | {n.subject.patient for n in self.not_assessable}
        return {
            **measure_what_can_be(outcome.labels, outcome.probabilities, self.threshold),
            "coverage": _mean([float(name in names) for name in sorted(everyone)]),
            "right_of_said": _mean(right),
        }

    def content(self) -> dict[str, Any]:
        """Say it as data for JSON: each figure as NAME and NAME_interval."""
        figures = self.figures()
        area = figures["auc"]
        told: dict[str, Any] = {}
        for name, estimate in figures.items():
            told[name] = None if estimate is None else estimate.value
            told[f"{name}_interval"] = None if estimate is None else [estimate.low, estimate.high]
        return {
            **told, "beats_chance": None if area is None else area.low > 0.5, "auc_reason": self.why_no_auc or None,
            "threshold": self.threshold, "judged": len(self.judged), "positives": sum(self.outcome.labels),
            "sites": by_site(self.outcome, self.threshold), "patients": [j.content() for j in self.judged],
            "not_assessable": [n.content() for n in self.not_assessable],
        }  # fmt: skip

    @property
    def why_no_auc(self) -> str:
        """Why nothing tells the classes apart here, or nothing."""
        labels = set(self.outcome.labels)
        if len(labels) == 2:
            return ""
        kind = {1: "positive", 0: "negative"}[labels.pop()] if labels else ""
        told = f"all {len(self.judged)} patients judged are {kind}" if kind else "no patient could be judged"
        return f"{told}: AUC and kappa need both classes"


def _mean(values: Sequence[float]) -> Estimate | None:
    if not values:
        return None
    mean, (low, high) = mean_interval(values)
    return Estimate(mean, low, high)


def _who(subject: Subject) -> dict[str, Any]:
    case = subject.case
    return {"case": case.name, "patient": subject.patient, "site": case.site, "label": subject.label}
