"""The languages of the report page; apart from its words, as settings are read where little may be imported."""

from __future__ import annotations

from typing import Literal

Language = Literal["en", "zh"]
