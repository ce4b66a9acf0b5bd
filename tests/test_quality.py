"""The quality gate: each check on a study made to pass, to be warned of, and to be stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from monai.deploy.core import Fragment

import models
from app.phantom import PhantomOptions, make_phantom
from models.novelty import load_reference
from operators.build_volumes import build_volumes
from operators.domain import Alignment, Contrast, Outcome, SourceVolume
from operators.errors import QualityStop, StudyRejected
from operators.load_study import load_study
from operators.network_view import NetworkView, view_of
from operators.preprocess import preprocess
from operators.quality import QualityOperator, assess, stop_of
from operators.quality_limits import QualityLimits
from operators.select_series import select_series
from operators.stage import Job, run_stage

REFERENCE = load_reference(Path(models.__file__).parent / "inputs" / "nasbranet.json")
T1C, T2, FLAIR = Contrast.T1C, Contrast.T2, Contrast.FLAIR
PASS, WARN, STOP = Outcome.PASS, Outcome.WARN, Outcome.STOP


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom")
    make_phantom(folder, PhantomOptions(seed=3, rows=192, columns=192, pixel_mm=1.2, one_matrix=True, motion={}))
    volumes = dict(build_volumes(select_series(load_study(folder))))
    stack = preprocess(volumes)
    return volumes, stack, view_of(stack)


def outcomes(study, limits=QualityLimits(), reference=REFERENCE, **changes):  # noqa: B008 - frozen
    """The outcome of each check by name, the worst where a name has several; and the reasons that do not pass."""
    volumes, stack, view = study
    checks = assess(
        replace(stack, **changes.get("stack", {})),
        volumes | changes.get("volumes", {}),
        changes.get("view", view),
        reference,
        limits,
    )
    worst = {}
    for check in checks:
        worst[check.name] = max(worst.get(check.name, PASS), check.outcome, key=list(Outcome).index)
    return worst, " ".join(c.reason for c in checks if c.outcome is not PASS)


def altered(source: SourceVolume, change) -> SourceVolume:
    array = change(source.volume.array.copy())
    return SourceVolume(source.series, source.volume.with_array(array.astype(np.float32)), source.headers)


def test_a_sound_study_passes_every_check(study):
    worst, _ = outcomes(study)
    assert set(worst) == {
        "coverage", "spacing", "signal", "motion", "registration", "brain", "duplicate", "input",
    }  # fmt: skip
    assert {name for name, outcome in worst.items() if outcome is not PASS} <= {"input"}


def test_a_missing_vertex_is_warned_of(study):
    brain = study[1].brain.copy()
    brain[-1] = brain[len(brain) // 2]
    worst, why = outcomes(study, stack={"brain": brain})
    assert worst["coverage"] is WARN
    assert "the vertex is not covered" in why


@pytest.mark.parametrize(("slices", "outcome"), [(15, WARN), (9, STOP)])
def test_a_thin_slab_of_brain(study, slices, outcome):
    brain = np.zeros_like(study[1].brain)
    brain[8 : 8 + slices] = study[1].brain[8 : 8 + slices]
    assert outcomes(study, stack={"brain": brain})[0]["coverage"] is outcome


@pytest.mark.parametrize(("overlap", "outcome"), [(0.97, PASS), (0.8, WARN), (0.4, STOP)])
def test_flair_that_covers_part_of_the_brain(study, overlap, outcome):
    found = replace(study[1].alignments[FLAIR], overlap=overlap)
    assert outcomes(study, stack={"alignments": {FLAIR: found}})[0]["coverage"] is outcome


def test_thick_slices(study):
    assert outcomes(study, QualityLimits(spacing_warn_mm=5.0))[0]["spacing"] is WARN
    assert outcomes(study, QualityLimits(spacing_stop_mm=5.0))[0]["spacing"] is STOP


@pytest.mark.parametrize(("noise", "outcome"), [(0.0, PASS), (0.2, WARN), (0.8, STOP)])
def test_noise(study, noise, outcome):
    rng = np.random.default_rng(0)

    def noisy(array):
        real, imaginary = (rng.normal(0.0, noise * np.percentile(array, 90), array.shape) for _ in range(2))
        return np.hypot(array + real, imaginary)

    assert outcomes(study, volumes={FLAIR: altered(study[0][FLAIR], noisy)})[0]["signal"] is outcome


def test_a_blank_image_stops_the_study(study):
    worst, why = outcomes(study, volumes={T1C: altered(study[0][T1C], np.zeros_like)})
    assert worst["signal"] is STOP
    assert "T1C is blank" in why


def test_clipping(study):
    clipped = altered(study[0][T1C], lambda a: np.minimum(a, np.percentile(a, 90)))
    worst, why = outcomes(study, volumes={T1C: clipped})
    assert worst["signal"] is WARN
    assert "clipped" in why


def test_ghosts(study):
    ghosted = altered(study[0][FLAIR], lambda a: a + 0.6 * np.roll(a, a.shape[1] // 2, axis=1))
    worst, why = outcomes(study, volumes={FLAIR: ghosted})
    assert worst["motion"] is WARN
    assert "ghosts" in why


@pytest.mark.parametrize(
    "found",
    [Alignment(3.0, 2.0, -0.1, -0.5, 1.0, fault="it fits nowhere"), Alignment(30.0, 2.0, -0.1, -0.5, 1.0)],
    ids=["failed", "far"],
)
def test_registration_that_failed_or_went_far(study, found):
    assert outcomes(study, stack={"alignments": {T2: found}})[0]["registration"] is WARN


@pytest.mark.parametrize(("factor", "outcome"), [(1.0, PASS), (0.75, WARN), (0.2, STOP)])
def test_brain_volume(study, factor, outcome):
    volume = float(study[1].brain.sum() * np.prod(study[1].spacing_mm)) / 1000.0
    scale = 1300.0 / volume * factor
    brain = study[1].brain & (np.random.default_rng(0).random(study[1].brain.shape) < scale)
    limits = QualityLimits(brain_warn_ml=(1100.0, 2000.0), brain_stop_ml=(400.0, 2600.0))
    assert outcomes(study, limits, stack={"brain": brain})[0]["brain"] is outcome


def test_one_image_sent_as_both_stops_the_study(study):
    same = NetworkView(study[2].images[:, [1, 1]], study[2].placement)
    worst, why = outcomes(study, view=same)
    assert worst["duplicate"] is STOP
    assert "one image was sent as both" in why


def test_noise_for_images_is_unlike_the_training(study):
    noise = np.random.default_rng(0).normal(0, 1, study[2].images.shape) * (study[2].images != 0)
    worst, why = outcomes(study, view=NetworkView(noise.astype(np.float32), study[2].placement))
    assert worst["input"] is STOP
    assert "unlike what the network learnt from" in why


def test_a_network_without_reference_is_warned_of(study):
    assert outcomes(study, reference=None)[0]["input"] is WARN


def test_a_stop_ends_the_job_as_not_assessed_with_its_code(study, tmp_path):
    job = Job("j", tmp_path, tmp_path)
    job.volumes, job.stack = study[0] | {T1C: altered(study[0][T1C], np.zeros_like)}, study[1]
    gate = QualityOperator(Fragment(), name="quality", reference=REFERENCE, limits=QualityLimits())
    run_stage("quality", gate.process, job)
    assert job.failure.code == "quality-signal"
    assert job.failure.not_assessable
    assert job.failure.message == "T1C is blank"
    assert job.checks


def test_the_error_names_every_reason_and_the_first_code(study):
    blank = {c: altered(study[0][c], np.zeros_like) for c in (T1C, FLAIR)}
    stop = stop_of(assess(study[1], study[0] | blank, study[2], REFERENCE, QualityLimits()))
    assert isinstance(stop, QualityStop)
    assert isinstance(stop, StudyRejected)
    assert stop.code == "quality-signal"
    assert str(stop) == "T1C is blank; FLAIR is blank"
