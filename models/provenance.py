"""What each shipped model learnt from: in one line a language, for the report page, and from whom, for judging it.

By the model's version, the beginning of its file's SHA-256: a model that was trained anew is never given another's
data.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from models.json_file import read_json

CARDS = Path(__file__).parent / "cards"
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


def taught_network(version: str, cards: Path = CARDS) -> frozenset[str] | None:
    """Name the patients who taught the segmenting network of a version; None where nothing tells it.

    The card names the version that it is about, and the cross-validation beside it all its patients, with those whom
    it judged nobody of, as they taught by FLAIR alone.
    """
    card, patients = cards / "nasbranet.md", cards / "nasbranet.crossval.json"
    if not (card.is_file() and patients.is_file() and version in card.read_text(encoding="utf-8")):
        return None
    told = read_json(patients)
    return frozenset((*told["patients"], *told.get("taught_by_flair", ())))
