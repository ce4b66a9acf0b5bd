"""Decide whether a study is good enough: each check passes, warns the reader, or stops the study with a coded reason.

Warnings go into the report; a stop ends the study as not assessed. Every limit is a setting (operators.quality_limits).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from models.novelty import Reference, features, likeness
from operators.domain import REQUIRED, Check, Contrast, FloatArray, Outcome, Stack, Volumes
from operators.errors import QualityStop
from operators.image_figures import background_share, cut_share, noise_deviation, otsu_foreground, saturated_share
from operators.network_view import CHANNELS, NetworkView, view_of
from operators.quality_limits import QualityLimits
from operators.settings_digest import digest_of
from operators.stage import Job, StageOperator, needed

SLICES_LOOKED_AT = 8
"""Of each image, for signal and motion: enough for a median."""
MOST_SIGNAL = 999.0
"""Signal to noise is given no higher than this: there are images without any noise."""


def assess(
    stack: Stack, volumes: Volumes, view: NetworkView, reference: Reference | None, limits: QualityLimits
) -> tuple[Check, ...]:
    """Look at a study once it is preprocessed; stops are among the checks, nothing is raised."""
    found = [*_coverage(stack, limits)]
    for contrast in REQUIRED:
        found += [*_resolution(contrast, volumes, limits), *_signal(contrast, volumes, limits)]
    return (*found, *_registration(stack, limits), _brain(stack, limits), *_input(view, reference, limits))


def stop_of(checks: tuple[Check, ...]) -> QualityStop | None:
    """Give the error of the first check that stops the study, if one does."""
    stops = [check for check in checks if check.outcome is Outcome.STOP]
    return QualityStop(stops[0].name, "; ".join(check.reason for check in stops)) if stops else None


def _below(value: float, warn: float, stop: float = -np.inf) -> Outcome:
    """Grade a value of which more is better."""
    return Outcome.STOP if value < stop else Outcome.WARN if value < warn else Outcome.PASS


def _above(value: float, warn: float, stop: float = np.inf) -> Outcome:
    """Grade a value of which less is better."""
    return Outcome.STOP if value > stop else Outcome.WARN if value > warn else Outcome.PASS


def _check(name: str, outcome: Outcome, reason: str, value: float, limit: float, hint: str = "") -> Check:
    """Make a check; the hint is what a reader should look at where it does not pass."""
    return Check(name, outcome, f"{reason}: {hint}" if hint and outcome is not Outcome.PASS else reason, value, limit)


def _coverage(stack: Stack, limits: QualityLimits) -> Iterator[Check]:
    cut = cut_share(stack.brain)
    reason, hint = f"brain on the topmost slice is {cut:.0%} of its widest section", "the vertex is not covered"
    yield _check("coverage", _above(cut, limits.cut_warn), reason, cut, limits.cut_warn, hint)
    seen = int(np.count_nonzero(stack.brain.any(axis=(1, 2)))) * stack.spacing_mm[0]
    outcome = _below(seen, limits.extent_warn_mm, limits.extent_stop_mm)
    yield _check("coverage", outcome, f"{seen:.0f} mm of brain are covered, feet to head", seen, limits.extent_warn_mm)
    if flair := stack.alignments.get(Contrast.FLAIR):
        shared = flair.overlap
        outcome = _below(shared, limits.overlap_warn, limits.overlap_stop)
        yield _check("coverage", outcome, f"FLAIR covers {shared:.0%} of T1C's brain", shared, limits.overlap_warn)


def _resolution(contrast: Contrast, volumes: Volumes, limits: QualityLimits) -> Iterator[Check]:
    slice_mm, *pixel = (float(s) for s in volumes[contrast].volume.spacing)
    outcome = _above(slice_mm, limits.spacing_warn_mm, limits.spacing_stop_mm)
    yield _check(
        "spacing", outcome, f"{contrast}'s slices lie {slice_mm:.1f} mm apart", slice_mm, limits.spacing_warn_mm
    )
    side = max(pixel)
    outcome = _above(side, limits.pixel_warn_mm, limits.pixel_stop_mm)
    yield _check("spacing", outcome, f"{contrast}'s pixels are {side:.2f} mm wide", side, limits.pixel_warn_mm)


def _signal(contrast: Contrast, volumes: Volumes, limits: QualityLimits) -> Iterator[Check]:
    """Look at some slices of the middle third, as they came."""
    array: FloatArray = volumes[contrast].volume.array
    third = len(array) // 3
    places = np.linspace(third, len(array) - 1 - third, SLICES_LOOKED_AT).round().astype(int)
    middle = array[np.unique(places)]
    head = otsu_foreground(middle)
    if not head.any():
        yield Check("signal", Outcome.STOP, f"{contrast} is blank", 0.0, limits.signal_stop)
        return
    ratio = min(float(np.median(middle[head])) / max(noise_deviation(middle, head), 1e-6), MOST_SIGNAL)
    outcome = _below(ratio, limits.signal_warn, limits.signal_stop)
    yield _check("signal", outcome, f"{contrast}'s signal is {ratio:.0f} times its noise", ratio, limits.signal_warn)
    full, reason = saturated_share(middle, head), "of the head is at the greatest value"
    outcome = _above(full, limits.saturated_warn)
    yield _check("signal", outcome, f"on {contrast} {full:.1%} {reason}", full, limits.saturated_warn, "it is clipped")
    ghost = background_share(middle, head)
    if ghost is not None:
        reason = f"on {contrast} the air beside the head has {ghost:.0%} of the head's signal"
        outcome = _above(ghost, limits.ghost_warn)
        yield _check("motion", outcome, reason, ghost, limits.ghost_warn, "look for ghosts or motion")


def _registration(stack: Stack, limits: QualityLimits) -> Iterator[Check]:
    for contrast, found in sorted(stack.alignments.items()):
        if found.fault:
            # A FLAIR that cannot be aligned has ended the study before.
            reason = f"{contrast} is not used, as it could not be aligned to T1C: {found.fault}"
            yield Check("registration", Outcome.WARN, reason, found.shift_mm, limits.moved_warn_mm)
            continue
        far = found.shift_mm > limits.moved_warn_mm or found.turn_degrees > limits.moved_warn_degrees
        reason = f"{contrast} was aligned to T1C by {found.shift_mm:.1f} mm and {found.turn_degrees:.1f} degrees"
        outcome = Outcome.WARN if far else Outcome.PASS
        yield _check("registration", outcome, reason, found.shift_mm, limits.moved_warn_mm, "look whether they match")


def _brain(stack: Stack, limits: QualityLimits) -> Check:
    volume = float(stack.brain.sum() * np.prod(stack.spacing_mm)) / 1000.0
    (low, high), (lowest, highest) = limits.brain_warn_ml, limits.brain_stop_ml
    small = volume < (low + high) / 2
    outcome = _below(volume, low, lowest) if small else _above(volume, high, highest)
    return _check("brain", outcome, f"{volume:.0f} ml of brain are outlined", volume, low if small else high)


def _input(view: NetworkView, reference: Reference | None, limits: QualityLimits) -> Iterator[Check]:
    """Compare the network's input with what the network was trained on."""
    some = view.images[:: max(1, len(view.images) // SLICES_LOOKED_AT)]
    alike = likeness(*(some[:, c][some.any(axis=1)] for c in range(len(CHANNELS))))
    reason, hint = f"{' and '.join(CHANNELS)} correlate by {alike:.2f}", "one image was sent as both"
    yield _check(
        "duplicate", _above(alike, limits.alike_stop, limits.alike_stop), reason, alike, limits.alike_stop, hint
    )
    if reference is None:
        yield Check(
            "input", Outcome.WARN, "no reference tells whether the images are like those the network learnt from"
        )
        return
    figures = features(view.images)
    score = reference.score(figures)
    outcome = _above(score, reference.warn, reference.stop)
    hint = f"unlike what the network learnt from, most in {' and '.join(reference.oddest(figures))}"
    yield _check("input", outcome, f"novelty of the images scores {score:.2f}", score, reference.warn, hint)


class QualityOperator(StageOperator):
    """Stack and volumes to checks and the network's view."""

    def __init__(
        self, fragment: Any, *args: Any, reference: Reference | None, limits: QualityLimits, **kwargs: Any
    ) -> None:
        self._assess = partial(assess, reference=reference, limits=limits)
        self._digest = digest_of("quality", reference, limits)
        super().__init__(fragment, *args, **kwargs)

    def process(self, job: Job) -> None:
        """Add `job.view` and `job.checks`; raises QualityStop where one of them stops the study."""
        stack = needed(job.stack)
        job.view = view_of(stack)
        job.depends_on = (*job.depends_on, self._digest)
        job.checks = self._assess(stack, needed(job.volumes), job.view)
        if stop := stop_of(job.checks):
            raise stop
