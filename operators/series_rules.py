"""Rules about texts in a header: what is built in, and what a site adds in app.yaml.

A site's rule weighs more than built-in words and timing together, but less than a fact: what a header states to be
CT or diffusion stays that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from operators.series_kinds import CONTRASTS, FORBIDDEN
from operators.series_words import AFTER, BEFORE, FLAIR, FORBIDDEN_WORDS, PROTON, T1, T2, B, E

WORD_POINTS = 4.0
"""Points of a contrast that a description names."""
FLAIR_POINTS = 5.0
"""FLAIR is rarely written where it is not meant; T2 often is where T2 FLAIR is."""
FORBIDDEN_POINTS = 9.0
"""Points of a forbidden kind that a description names; contrasts named beside it then count nothing, and timing that
suits a contrast does not outweigh it: a subtraction has the timing of what it was made of."""
AGENT_POINTS = 4.0
"""Points of contrast agent, or its absence, that a description names."""
SITE_POINTS = 10.0
TextField = Literal["description", "protocol", "sequence_name", "image_type", "body_part"]
KINDS = (*CONTRASTS, *FORBIDDEN)


@dataclass(frozen=True)
class Rule:
    """A pattern that speaks for a kind where it is found in a text of the header."""

    pattern: str
    """Regular expression, searched for in the field's text; capitals and small letters are one."""
    kind: str
    """What the series is then: one of `KINDS`."""
    field: TextField = "description"
    weight: float = SITE_POINTS
    """Points, in natural log-odds."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind {self.kind!r}; known are {', '.join(KINDS)}")
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(f"pattern {self.pattern!r} is no regular expression: {error}") from error

    def matches(self, text: str) -> bool:
        """Say whether the pattern is found in a text."""
        return re.search(self.pattern, text, re.IGNORECASE) is not None


Rules = tuple[Rule, ...]


def built_in() -> list[tuple[str, str, float, str]]:
    """Rows of the table of built-in words: kind, field, points, pattern, in the order they are tried."""
    rows = [(kind, FORBIDDEN_POINTS, pattern) for kind, pattern in FORBIDDEN_WORDS]
    rows += [("FLAIR", FLAIR_POINTS, FLAIR), ("T1", WORD_POINTS, T1), ("T2", WORD_POINTS, T2)]
    rows += [("proton density", WORD_POINTS, PROTON), ("before contrast agent", AGENT_POINTS, BEFORE)]
    rows += [("after contrast agent", AGENT_POINTS, AFTER)]
    # The ends of words are easier to read as \b.
    return [(kind, "description", points, p.replace(B, r"\b").replace(E, r"\b")) for kind, points, p in rows]
