"""The markers read together, as WHO CNS 2021 does."""

from __future__ import annotations

import pytest

from operators.domain import Marker, MarkerName, MarkerValue
from operators.integrated import read_together

SAID = {"+": MarkerValue.ALTERED, "-": MarkerValue.UNALTERED, "?": MarkerValue.INDETERMINATE}


def marker(name, value, probability):
    if value == "n":
        return Marker(name, MarkerValue.NOT_ASSESSED, "no model")
    return Marker(name, SAID[value], "", probability, "m", "1")


def reading(idh, codel, p_idh=0.9, p_codel=0.7):
    return read_together([marker(MarkerName.CODEL_1P19Q, codel, p_codel), marker(MarkerName.IDH, idh, p_idh)])


@pytest.mark.parametrize(
    ("idh", "codel", "words", "weakest"),
    [
        ("+", "+", "suggest oligodendroglioma, IDH-mutant and 1p/19q-codeleted", 0.7),
        ("+", "-", "suggest astrocytoma, IDH-mutant", 0.3),
        ("+", "?", "an IDH-mutant diffuse glioma, astrocytoma or oligodendroglioma", 0.9),
        ("+", "n", "an IDH-mutant diffuse glioma, astrocytoma or oligodendroglioma", 0.9),
        ("-", "-", "an IDH-wildtype diffuse glioma", 0.1),
        ("-", "?", "an IDH-wildtype diffuse glioma", 0.1),
        ("-", "+", "do not go together", None),
        ("?", "+", "IDH is open", None),
        ("n", "-", "IDH is open", None),
    ],
)
def test_every_pair_of_answers_is_read_and_is_no_surer_than_its_weakest_part(idh, codel, words, weakest):
    found = reading(idh, codel)
    assert words in found.text
    assert found.probability == (None if weakest is None else pytest.approx(weakest))


def test_what_tissue_must_confirm_is_named():
    assert "1p/19q (FISH or array)" in reading("+", "+").to_confirm
    assert "TERT promoter" in reading("-", "-").to_confirm
    assert str(reading("+", "+")) == (
        "The images suggest oligodendroglioma, IDH-mutant and 1p/19q-codeleted (weakest marker 70%). "
        "Tissue must confirm: histology and grade; IDH1/IDH2 (immunohistochemistry for R132H, then sequencing); "
        "1p/19q (FISH or array)."
    )
    assert str(reading("n", "n")) == "IDH is open, so no kind of glioma is suggested."


def test_without_markers_nothing_is_suggested():
    assert read_together([]).probability is None
