"""De-identified copies of files: of results for the destinations that want them so, and of a folder for a researcher.

Both use one secret, so that what came from one study fits together, whichever way it went.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from pydicom import Dataset, dcmread
from pydicom.errors import BytesLengthException, InvalidDicomError

from app.config import Settings
from app.deidentify_secret import read_secret
from app.errors import InputError
from app.files import PART, private_folder
from app.journal import DeliveryRow
from operators.deidentify import FAULTS, Deidentifier
from operators.deidentify_form import Profile
from operators.deidentify_kinds import IS_DOCUMENT
from operators.errors import NotDeidentified
from operators.pseudonyms import Pseudonyms
from operators.results import save

_UNREADABLE = (InvalidDicomError, BytesLengthException, EOFError, *FAULTS)


@dataclass(frozen=True)
class Copies:
    """What became of files that were to be de-identified."""

    made: Sequence[Path]
    left_out: dict[Path, str]
    """By original: why there is no copy of it, without any value of it."""


def open_deidentifier(settings: Settings, profile: Profile) -> Deidentifier:
    """Return what applies a profile with the site's secret; raises ConfigError with the remedy."""
    return Deidentifier(Pseudonyms(read_secret(settings)), profile)


class OwedCopies:
    """Copies of results for the destinations that want them de-identified."""

    def __init__(self, settings: Settings, profiles: Mapping[str, Profile]) -> None:
        """`profiles` are wanted by destination; raises ConfigError where there is no secret."""
        self._profiles = dict(profiles)
        self._deidentifiers = {p: open_deidentifier(settings, p) for p in sorted(set(profiles.values()))}

    def name(self, destination: str, file: str) -> str:
        """Return the name of the file that a destination is to get in place of one it is owed."""
        profile = self._profiles.get(destination)
        return file if profile is None or file.startswith(f"{profile}-") else f"{profile}-{_without_prefix(file)}"

    def replace(self, owed: dict[str, Sequence[Path]], staging: Path) -> dict[str, dict[str, str]]:
        """Replace what destinations are owed by copies in a new folder; return what has none, by name, and why.

        A report page has none, and is owed to none of them: it names the patient, and tells what the report does.
        """
        failed: dict[str, dict[str, str]] = {}
        private_folder(staging)
        for name in sorted(owed.keys() & self._profiles.keys()):
            made, failed[name] = [], {}
            for file in owed[name]:
                copy = staging / self.name(name, file.name)
                why = "" if copy.exists() else self._copy(file, copy, self._profiles[name])
                if not why:
                    made.append(copy)
                elif why != IS_DOCUMENT:
                    failed[name][copy.name] = why
            owed[name] = made
        return failed

    def make(self, row: DeliveryRow, originals: Path, copy: Path) -> str:
        """Make one copy from the archive; return why it cannot be made, or nothing."""
        profile, file = self._profiles.get(row.destination), originals / _without_prefix(row.file)
        if profile is None or not file.exists():
            return "there is nothing to make it of"
        return self._copy(file, copy, profile)

    def _copy(self, file: Path, copy: Path, profile: Profile) -> str:
        try:
            _save(self._deidentifiers[profile](_read(file)), copy)
        except NotDeidentified as error:
            return str(error)
        return ""


def _without_prefix(file: str) -> str:
    """Return the name of the original that a copy was made of."""
    for profile in get_args(Profile):
        file = file.removeprefix(f"{profile}-")
    return file


def copy_folder(
    folder: Path, out: Path, deidentifier: Deidentifier, on_file: Callable[[], None] = lambda: None
) -> Copies:
    """Write de-identified copies of all DICOM files below a folder, in folders by series, named by their new UIDs.

    `out` appears when all are written. Raises InputError where it cannot be, where it holds something already, or
    where there is nothing to be copied.
    """
    if out.resolve().is_relative_to(folder.resolve()):
        raise InputError("--out lies inside the folder that is read; give another")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists already, and is not overwritten")
    out = out.resolve()
    part = out.with_name(f".{out.name}{PART}")
    try:
        shutil.rmtree(part, ignore_errors=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the libraries' warnings quote values
            copies = _copy_all(files_below(folder), private_folder(part), deidentifier, on_file)
        if not copies.made:
            raise InputError(_nothing_of(folder, copies))
        part.rename(out)
        return Copies([out / path.relative_to(part) for path in copies.made], copies.left_out)
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def files_below(folder: Path) -> list[Path]:
    """List the files at every level of a folder."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _copy_all(files: Iterable[Path], folder: Path, deidentifier: Deidentifier, on_file: Callable[[], None]) -> Copies:
    made: list[Path] = []
    left_out: dict[Path, str] = {}
    for file in files:
        try:
            clean = deidentifier(_read_of_user(file))
            target = private_folder(folder / str(clean.SeriesInstanceUID)) / f"{clean.SOPInstanceUID}.dcm"
            if target.exists():
                raise NotDeidentified("it has the SOP Instance UID of a file before it")
            made.append(_save(clean, target))
        except NotDeidentified as error:
            left_out[file] = str(error)
        on_file()
    return Copies(made, left_out)


def _read_of_user(file: Path) -> Dataset:
    try:
        return _read(file)
    except OSError as error:
        raise NotDeidentified(f"it cannot be read ({error.strerror})") from None


def _read(file: Path) -> Dataset:
    try:
        return dcmread(file)
    except InvalidDicomError:
        raise NotDeidentified("it is not a DICOM file") from None
    except _UNREADABLE as error:
        raise NotDeidentified(f"it cannot be read ({type(error).__name__})") from None


def _save(clean: Dataset, path: Path) -> Path:
    try:
        return save(clean, path)
    except FAULTS as error:
        path.with_name(path.name + PART).unlink(missing_ok=True)
        # The error's own text may quote the dataset.
        raise NotDeidentified(f"it cannot be written again ({type(error).__name__})") from None


def _nothing_of(folder: Path, copies: Copies) -> str:
    reasons = sorted(set(copies.left_out.values()))
    return f"{folder} holds no file that can be de-identified{f': {reasons[0]}' if len(reasons) == 1 else ''}"
