"""How results are de-identified for a destination; light, as settings are read where little may be imported."""

from __future__ import annotations

from typing import Literal

Profile = Literal["basic", "shifted-dates"]
"""PS3.15 Annex E: the Basic Profile, in which dates go; or with the option of modified dates (E.3.6), in which a
patient's dates are all shifted alike."""
