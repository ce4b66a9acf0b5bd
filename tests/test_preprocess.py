"""What preprocessing makes of studies it can and cannot use."""

from __future__ import annotations

import highdicom as hd
import numpy as np
import pytest

from app.phantom import PhantomOptions, make_phantom
from models.brain import dice
from operators.build_volumes import build_volumes
from operators.domain import Contrast, SourceVolume
from operators.errors import RegistrationFailed, UnusableImage
from operators.load_study import load_study
from operators.preprocess import preprocess
from operators.select_series import select_series

T1C, T1, T2, FLAIR = Contrast.T1C, Contrast.T1, Contrast.T2, Contrast.FLAIR


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    options = PhantomOptions(seed=1, rows=128, columns=128, pixel_mm=1.8, one_matrix=True)
    return make_phantom(tmp_path_factory.mktemp("phantom"), options)


@pytest.fixture(scope="module")
def volumes(truth):
    return dict(build_volumes(select_series(load_study(truth.folder))))


def true_brain(truth, geometry: hd.VolumeGeometry) -> np.ndarray:
    """The phantom's brain on any grid in T1C's pose."""
    share = truth.head.brain_grid.resample(truth.head.parenchyma, geometry.affine, geometry.spatial_shape)
    return share > 0.5


def with_array(source: SourceVolume, array: np.ndarray) -> SourceVolume:
    return SourceVolume(source.series, source.volume.with_array(array.astype(np.float32)), source.headers)


def without_skull(truth, source: SourceVolume, contrast: Contrast) -> SourceVolume:
    """A sequence as a research archive hands it out: zero outside its own brain."""
    affine = np.linalg.inv(truth.motion[contrast]) @ source.volume.affine
    share = truth.head.brain_grid.resample(truth.head.parenchyma, affine, source.volume.spatial_shape)
    return with_array(source, source.volume.array * (share > 0.3))


@pytest.fixture(scope="module")
def stack(volumes):
    return preprocess(volumes)


def test_every_sequence_comes_to_one_grid(stack, truth):
    assert set(stack.images) == set(Contrast)
    assert set(stack.alignments) == {T1, T2, FLAIR}
    for contrast, found in stack.alignments.items():
        assert not found.fault
        assert found.metric_after < found.metric_before
        assert stack.to_source[contrast] == pytest.approx(truth.motion[contrast], abs=1.0)
    assert sum("was aligned to T1C by" in note for note in stack.notes) == 3


def test_the_brain_is_the_phantoms(stack, truth):
    assert dice(stack.brain, true_brain(truth, stack.geometry)) > 0.95
    assert not stack.stripped


def test_every_step_is_timed(stack):
    steps = {"brain mask", "registration of T1", "registration of T2", "registration of FLAIR", "bias field of T1C"}
    assert steps <= set(stack.seconds)
    assert all(seconds > 0 for seconds in stack.seconds.values())


def test_a_sequence_that_shows_something_else_is_left_out(volumes, truth):
    noise = np.random.default_rng(0).rayleigh(50.0, volumes[T2].volume.array.shape)
    done = preprocess({c: volumes[c] for c in (T1C, FLAIR)} | {T2: with_array(volumes[T2], noise)})
    assert T2 not in done.images
    assert T2 not in done.to_source
    assert done.alignments[T2].fault
    assert any(note.startswith("T2 was left out") for note in done.notes)


def test_a_flair_that_shows_something_else_ends_the_study(volumes):
    noise = np.random.default_rng(0).rayleigh(50.0, volumes[FLAIR].volume.array.shape)
    with pytest.raises(RegistrationFailed, match=r"FLAIR could not be aligned to T1C \(series \d+\)") as error:
        preprocess({T1C: volumes[T1C], FLAIR: with_array(volumes[FLAIR], noise)})
    assert error.value.code == "registration-failed"


@pytest.mark.parametrize("bare", [(T1C, FLAIR), (T1C,), (FLAIR,)], ids=["both", "T1C", "FLAIR"])
def test_sequences_without_skull_are_used_as_they_are(bare, volumes, truth):
    given = {c: without_skull(truth, volumes[c], c) if c in bare else volumes[c] for c in (T1C, FLAIR)}
    done = preprocess(given)
    assert done.stripped
    assert dice(done.brain, true_brain(truth, done.geometry)) > 0.95
    assert not done.alignments[FLAIR].fault
    if T1C in bare:
        assert (done.brain >= (given[T1C].volume.to_patient_orientation("HPL").array > 0)).mean() > 0.999


def test_where_t1c_shows_no_brain_another_sequence_does(volumes, monkeypatch):
    from models import brain

    outline, asked = brain.outline_brain, []

    def once_blind(array, spacing_mm):
        asked.append(array)
        if len(asked) == 1:
            raise brain.BrainNotFound("no brain was found in the image")
        return outline(array, spacing_mm)

    monkeypatch.setattr(brain, "outline_brain", once_blind)
    done = preprocess({c: volumes[c] for c in (T1C, T1, FLAIR)})
    assert done.brain.any()
    assert "the brain was outlined on T1, because of T1C: no brain was found in the image" in done.notes


def test_a_study_without_a_brain_is_refused(volumes):
    with pytest.raises(UnusableImage, match="no brain"):
        preprocess({T1C: with_array(volumes[T1C], np.zeros_like(volumes[T1C].volume.array))})
