"""Which named figures moved a model's answer, and how far: Shapley values of groups of figures.

Without a group the model is asked as where its figures are not known, so that each takes the median of the patients
whom it learnt from. How much the log odds gain by a group is averaged over every order in which the groups can become
known; the gains of all groups add up to the answer, less that for a patient of whom nothing is known. They say what
moved this model, not what causes a marker.

Source: E. Strumbelj and I. Kononenko, "An Efficient Explanation of Individual Classifications using Game Theory",
JMLR 2010. Few enough groups make it exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from math import factorial
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from models.markers.image_features import feature_names

Floats = NDArray[np.float64]

AGE, LOCATION, EXTENT, ENHANCEMENT = "age", "location", "size and outline", "enhancement"
T1C_SIGNAL, T1C_TEXTURE = "other signal on T1C", "texture on T1C"
FLAIR_SIGNAL, FLAIR_TEXTURE = "signal on FLAIR", "texture on FLAIR"
LIKENESS = "likeness of T1C and FLAIR"
_TEXTURE = ("deviation", "skewness", "kurtosis", "edge steepness", "roughness", "spots", "entropy")
_SIGNAL = (
    "mean",
    "quantile 0.05",
    "quantile 0.25",
    "quantile 0.5",
    "quantile 0.75",
    "against rim",
    "core against edge",
)
_OF_FIGURE: Mapping[str, str] = MappingProxyType(
    {
        "age": AGE,
        **dict.fromkeys(("height", "front to back", "off midline", "other side's share"), LOCATION),
        **dict.fromkeys(("tall", "long", "wide", "share of brain", "raggedness"), EXTENT),
        **dict.fromkeys(
            ("enhancing share", "enhancing share of brain", "T1C quantile 0.95", "T1C quantile 0.99"), ENHANCEMENT
        ),
        **dict.fromkeys((*(f"T1C {name}" for name in _SIGNAL), "dark share on T1C"), T1C_SIGNAL),
        **dict.fromkeys((f"T1C {name}" for name in _TEXTURE), T1C_TEXTURE),
        **dict.fromkeys((*(f"FLAIR {name}" for name in _SIGNAL), "dark share on FLAIR"), FLAIR_SIGNAL),
        **dict.fromkeys(("FLAIR quantile 0.95", "FLAIR quantile 0.99"), FLAIR_SIGNAL),
        **dict.fromkeys((f"FLAIR {name}" for name in _TEXTURE), FLAIR_TEXTURE),
        "likeness": LIKENESS,
    }
)
GROUP_OF_INPUT = tuple(_OF_FIGURE[name] for name in (*feature_names(), "age"))
"""Of each figure that a model reads, in their order, the group under which a reader is told of it."""
GROUPS = tuple(dict.fromkeys(GROUP_OF_INPUT))


def influences(
    score: Callable[[Floats], Floats], row: Floats, group_of_input: Sequence[str] = GROUP_OF_INPUT
) -> dict[str, float]:
    """Give the log odds that each group of figures adds to what `score` says of `row`.

    `score` maps rows (N, figures) to log odds (N), and takes what is not a number for not known; it is asked once, of
    two to the power of the number of groups rows.
    """
    groups = list(dict.fromkeys(group_of_input))
    known = np.array(list(product((False, True), repeat=len(groups))))
    place = np.array([groups.index(group) for group in group_of_input])
    told = score(np.where(known[:, place], row, np.nan))
    return {group: _mean_gain(known, told, k) for k, group in enumerate(groups)}


def _mean_gain(known: NDArray[np.bool_], told: Floats, group: int) -> float:
    """Average what a group adds to each set of the others, each set weighed by the orders that begin with it."""
    count = known.shape[1]
    orders = np.array([factorial(n) * factorial(count - n - 1) / factorial(count) for n in range(count)])
    step = 2 ** (count - 1 - group)  # rows count up in binary, the first group is the highest digit
    without = np.flatnonzero(~known[:, group])
    weights = orders[known[without].sum(axis=1)]
    return float(weights @ (told[without + step] - told[without]))
