"""How far volume and diameters can be trusted: intervals that hold as often as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest

from models.diameters import diameters
from models.refine import LEAST_DOUBT, Refinement, Spread
from models.training.refine_fit import Held
from models.training.spread_fit import MEASURES, TooFewPatients, fit_spread

SPACING = (5.0, 1.0, 1.0)


def disc(radius):
    """A disc on the middle one of three slices."""
    grid = np.indices((64, 64)) - 31.5
    mask = np.zeros((3, 64, 64), bool)
    mask[1] = np.hypot(*grid) <= radius
    return mask


def patients(count=60, noise=0.1, seed=0):
    """Held-out patients whose outline errs in radius by a log-normal factor; more where the network is less sure."""
    random = np.random.default_rng(seed)
    made = []
    for i in range(count):
        sure = random.uniform(0.7, 0.98)
        drawn = random.uniform(10, 20)
        found = disc(drawn * math.exp(noise * random.normal() * (1 - sure) / 0.16))
        maps = np.where(found, sure, 0.01).astype(np.float32)
        made.append(Held(f"p{i}", i % 5, np.stack([maps, maps]), disc(drawn), SPACING))
    return made


def test_an_interval_is_around_the_value_and_wider_for_a_doubtful_outline():
    spread = Spread(level=0.9, volume=1.0, long_axis=0.5, short_axis=0.6, patients=60)
    low, high = spread.around(10.0, spread.volume, 0.9)
    assert (low, high) == pytest.approx((10 * math.exp(-0.1), 10 * math.exp(0.1)))
    assert spread.around(10.0, spread.volume, 0.7)[1] > high
    assert spread.around(10.0, spread.volume, 1.0)[1] == pytest.approx(10 * math.exp(LEAST_DOUBT)), "never certain"


def test_intervals_hold_on_patients_they_were_not_fitted_on():
    fit = fit_spread(patients(100), Refinement())
    assert fit.spread.patients == 100
    for name in MEASURES:
        assert 0.8 <= fit.covered[name] <= 1.0
        assert fit.factor[name] > 1.02, "the noise is seen"
    fresh = patients(100, seed=1)
    held = 0
    for case in fresh:
        mask = Refinement().mask(case.maps[0], SPACING)
        confidence = Refinement().confidence(case.maps[0], mask)
        low, high = fit.spread.around(mask.sum(), fit.spread.volume, confidence)
        held += low <= case.truth.sum() <= high
    assert 0.78 <= held / 100 <= 1.0


def test_more_noise_makes_wider_intervals():
    calm, noisy = (fit_spread(patients(noise=noise), Refinement()).factor["volume"] for noise in (0.05, 0.2))
    assert noisy > calm


def test_the_quantile_is_the_conformal_one():
    held = patients(19)
    assert fit_spread(held, Refinement(), level=0.5).spread.volume < fit_spread(held, Refinement(), 0.9).spread.volume
    with pytest.raises(TooFewPatients, match="too few"):
        fit_spread(patients(9), Refinement(), level=0.9)


def test_patients_of_one_fold_are_not_enough():
    held = [Held(c.name, 0, c.maps, c.truth, c.spacing_mm) for c in patients(40)]
    with pytest.raises(TooFewPatients, match="one fold"):
        fit_spread(held, Refinement())


def test_a_patient_in_whom_nothing_was_found_has_no_measure():
    lost = patients(1)[0]
    nothing = Held("lost", 0, np.zeros_like(lost.maps), lost.truth, SPACING)
    assert fit_spread([*patients(60), nothing], Refinement()).spread.patients == 60


def test_diameters_of_a_disc_are_its_own_and_an_empty_mask_has_none():
    index, longest, across = diameters(disc(15.0), (1.0, 1.0))
    assert index == 1
    assert longest.millimetres == pytest.approx(30.0, abs=1.0)
    assert across.millimetres == pytest.approx(30.0, abs=1.2)
    assert diameters(np.zeros((2, 8, 8), bool), (1.0, 1.0)) is None
