"""What each shipped model learnt from, in one line a language, for the report page.

By the model's version, the beginning of its file's SHA-256: a model that was trained anew is never given another's
data.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

_FORM = TypeAdapter(dict[str, dict[str, str]])


class TrainingDataError(ValueError):
    """The file is not what is expected; the message says which."""


def load_training_data(path: Path) -> Mapping[str, Mapping[str, str]]:
    """Return lines by version and language, none without the file; raises TrainingDataError where it is damaged."""
    if not path.exists():
        return {}
    try:
        return _FORM.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise TrainingDataError(f"{path} does not say what models learnt from") from error
