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


SURE = {"+": 0.9, "-": 0.1, "?": 0.5, "n": None}
"""Of each answer, the probability of alteration that goes with it."""


def reading(idh, codel, proliferation="n", p_codel=None, p_proliferation=0.6):
    return read_together(
        [
            marker(MarkerName.PROLIFERATION, proliferation, p_proliferation),
            marker(MarkerName.CODEL_1P19Q, codel, p_codel or {"+": 0.7, "-": 0.3}.get(codel, 0.5)),
            marker(MarkerName.IDH, idh, SURE[idh]),
        ]
    )


@pytest.mark.parametrize(
    ("idh", "codel", "words", "weakest"),
    [
        ("+", "+", "suggest oligodendroglioma, IDH-mutant and 1p/19q-codeleted", 0.7),
        ("+", "-", "suggest astrocytoma, IDH-mutant", 0.7),
        ("+", "?", "an IDH-mutant diffuse glioma, astrocytoma or oligodendroglioma", 0.9),
        ("+", "n", "an IDH-mutant diffuse glioma, astrocytoma or oligodendroglioma", 0.9),
        ("-", "-", "an IDH-wildtype diffuse glioma", 0.9),
        ("-", "?", "an IDH-wildtype diffuse glioma", 0.9),
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
    assert "H3 K27 and H3 G34" in reading("-", "-").to_confirm, "glioblastoma is without H3 mutation too"
    assert str(reading("n", "n")) == (
        "IDH is open, so no kind of glioma is suggested. Tissue must confirm: histology and grade; "
        "IDH1/IDH2 (immunohistochemistry for R132H, then sequencing); 1p/19q (FISH or array)."
    )


@pytest.mark.parametrize(
    ("proliferation", "p", "hint", "sure"),
    [
        ("+", 0.6, "likely high, which is commoner in higher grades", 0.6),
        ("+", 0.95, "likely high", 0.7),
        ("-", 0.2, "likely low, which is commoner in lower grades", 0.7),
        ("?", 0.6, "", None),
        ("n", None, "", None),
    ],
)
def test_proliferation_hints_at_grade_and_no_surer_than_the_kind(proliferation, p, hint, sure):
    found = reading("+", "+", proliferation, p_proliferation=p)
    assert hint in found.grade_hint
    assert bool(found.grade_hint) == bool(hint)
    assert found.grade_probability == (None if sure is None else pytest.approx(sure))
    assert found.probability == pytest.approx(0.7), "the hint does not change the kind"
    assert ("Hint of grade: proliferation is" in str(found)) == bool(hint)


@pytest.mark.parametrize(("idh", "codel"), [("?", "+"), ("-", "+"), ("n", "n")])
def test_without_a_kind_there_is_no_hint_of_grade(idh, codel):
    assert not reading(idh, codel, "+").grade_hint


def test_without_markers_nothing_is_suggested():
    assert read_together([]).probability is None
