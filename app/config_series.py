"""What a site adds to series typing."""

from __future__ import annotations

from pydantic import Field, model_validator

from app.config_base import Section
from operators.series_rules import SITE_POINTS, Rule, TextField


class SeriesRule(Section):
    """A site's own rule about what its series are called; all such rules that match are weighed."""

    pattern: str = Field(min_length=1)
    """Regular expression, found anywhere in the field's text; capitals and small letters are one."""
    kind: str
    """What such a series is: T1, T1C, T2, FLAIR or a kind that is never taken (`python -m app explain --rules`)."""
    field: TextField = "description"
    """Where to look: description, protocol, sequence_name, image_type or body_part."""
    weight: float = Field(default=SITE_POINTS, gt=0, le=15)
    """Points in natural log-odds; built-in words have 4 to 9, facts such as a b-value 20 and always win."""

    @model_validator(mode="after")
    def _is_a_rule(self) -> SeriesRule:
        self.rule  # noqa: B018 - raises where the pattern or the kind is wrong
        return self

    @property
    def rule(self) -> Rule:
        """The rule as series typing wants it."""
        return Rule(self.pattern, self.kind, self.field, self.weight)


class SeriesConfig(Section):
    """What a site adds to the built-in rules of series typing; docs/series.md tells how."""

    rules: tuple[SeriesRule, ...] = ()
    """Rules of this site; none by default."""
