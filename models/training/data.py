"""Training cases: folders of slices with hand-drawn masks, brought to the networks' frame.

A data folder holds `labels.csv` (columns case, patient, and where known has_t1c, slice_mm, site and others) and one
folder a case with `NNN.webp` (channels T1, FLAIR, T1C; 8 bit) and `NNN_mask.png`, numbered from feet to head. Pixel
spacing is not recorded there, so it is estimated from the size of the brain (models.frame).
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.model_selection import StratifiedGroupKFold

from models import frame
from models.brain import BrainNotFound, Outline, stripped_brain
from models.json_file import part_of

FIELD = 256
"""Side of a prepared slice in frame pixels: the frame and room around it for augmentation."""
MASK_VERSION = "1"
"""Counts up when the brain's outline changes; masks take longest, and outlive changes of the frame."""
ASSUMED_SLICE_MM = 5.0
"""Slice spacing where labels.csv records none: the bias field's grid depends on it, and every volume in ml."""
MOST_MARKED = 0.5
"""More of a case's pixels is no tumour, but a mask the other way about."""
MOST_SLICE_MM = 30.0
"""More is no distance between slices in mm."""
T1, FLAIR, T1C = 0, 1, 2
LIKE_A_COPY = 0.98
"""Correlation of a slice's T1C and FLAIR, skull and all, above which one is a copy; of two true sequences it was below
.96 in 77 patients, of lossy copies above .99."""
_NAMES = {T1: "T1", FLAIR: "FLAIR", T1C: "T1C"}
_YES, _NO = {"true", "1", "1.0", "yes", "y"}, {"false", "0", "0.0", "no", "n"}
_SILENT = {"", "na", "nan", "n/a", "none", "unknown"}
"""What tables have where nothing is known."""


DATA_HELP = (
    "folder with labels.csv (columns case, patient; has_t1c where a T1C may be missing, slice_mm where slices are not "
    "5 mm apart) and a folder a case: NNN.webp with T1, FLAIR, T1C as red, green, blue, and NNN_mask.png with the "
    "drawn tumour, numbered from feet to head"
)
"""What a command that reads such a folder says of it."""


class DataError(ValueError):
    """A data folder cannot be used; the message says what to mend."""


@dataclass(frozen=True)
class Case:
    """One imaged patient of a data folder."""

    name: str
    patient: str
    site: str
    grade: str
    has_t1c: bool
    folder: Path
    slice_mm: float = ASSUMED_SLICE_MM
    """Distance between the middles of slices."""

    @property
    def spacing_key(self) -> str:
        """What is kept of a case is found by; nothing where the distance is the assumed one, as in older caches."""
        return "" if self.slice_mm == ASSUMED_SLICE_MM else f" {self.slice_mm:g} mm"

    def read(self) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Read the images (slices, rows, columns, 3) and the tumour mask (slices, rows, columns).

        Raises DataError where slices or masks are missing, cannot be read, or are not of one size.
        """
        slices = self.slices()
        there = {path.name.lower(): path for path in self.folder.iterdir()}
        wanted = [f"{path.stem}_mask.png" for path in slices]
        if missing := [name for name in wanted if name.lower() not in there]:
            raise DataError(f"{self.folder.name} lacks {missing[0]}")
        masks = [there[name.lower()] for name in wanted]
        images, drawn = [_read(path, "RGB") for path in slices], [_read_mask(path) for path in masks]
        rows, columns = images[0].shape[:2]
        for path, array in zip([*slices, *masks], [*images, *drawn], strict=True):
            if array.shape[:2] != (rows, columns):
                size = " x ".join(map(str, array.shape[:2]))
                raise DataError(
                    f"{self.folder.name}/{path.name} has {size} pixels, {slices[0].name} {rows} x {columns}"
                )
        tumour = np.stack(drawn)
        if tumour.mean() > MOST_MARKED:
            share = f"{tumour.mean():.0%} of all pixels"
            raise DataError(f"{self.folder.name}: its masks mark {share}; the tumour must be what is not 0")
        return np.stack(images), tumour

    def slices(self) -> list[Path]:
        """List the image files from feet to head, by number; raises DataError where there are none."""
        found = sorted(_images(self.folder), key=lambda path: (_number(path.stem), path.stem))
        if not found:
            raise DataError(f"{self.folder.name} holds no NNN.webp slices")
        return found


@dataclass(frozen=True, eq=False)
class Prepared:
    """A case in the frame, and what is needed to come back to its slices."""

    case: Case
    images: NDArray[np.float16]
    """(slices, 2, FIELD, FIELD): T1C and FLAIR, bias-corrected, normalised over the brain, not stripped.

    T1C is zero where the case has none.
    """
    brain: NDArray[np.bool_]
    """(slices, FIELD, FIELD): the widened brain mask."""
    tumour: NDArray[np.bool_]
    """(slices, FIELD, FIELD)."""
    placement: frame.Placement

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Of the case's own grid, between (slices, rows, columns)."""
        return (self.case.slice_mm, *self.placement.pixel_mm)


def read_cases(folder: Path) -> list[Case]:
    """List the cases of a data folder; raises DataError where it has not the expected form."""
    table = folder / "labels.csv"
    if not table.is_file():
        raise DataError(f"{folder} has no labels.csv; --data wants a folder of the form of data/tcga_lgg")
    rows = read_table(table)
    if not rows or not {"case", "patient"} <= rows[0].keys():
        raise DataError(f"{table} needs rows with the columns case, patient")
    return [
        Case(
            row["case"], row["patient"], row.get("site") or "", row.get("grade") or "",
            _has_t1c(row, folder / row["case"]), folder / row["case"], _slice_mm(row),
        )
        for row in rows
    ]  # fmt: skip


def read_table(path: Path) -> list[dict[str, str]]:
    """Read a table's rows by column; raises DataError where it is not text in UTF-8."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets begin a file with a mark
            return list(csv.DictReader(file))
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not in UTF-8; save it so") from error


def _has_t1c(row: Mapping[str, str | None], folder: Path) -> bool:
    """Say whether a case has a true T1C: by its row, or where that is silent by the images.

    Where there is none, T1C's channel is a copy of FLAIR, maybe a lossy one, or empty. Raises DataError for a word
    that says neither.
    """
    told = yes_or_no(row, "has_t1c")
    if told is not None:
        return told
    paths = sorted(_images(folder))
    try:
        middle = _read(paths[len(paths) // 2], "RGB")
    except (DataError, IndexError):
        return True  # what is wrong with the case is told where it is read
    t1c, flair = middle[..., T1C].ravel(), middle[..., FLAIR].ravel()
    return bool(np.ptp(t1c)) and not (np.ptp(flair) and np.corrcoef(t1c, flair)[0, 1] > LIKE_A_COPY)


def yes_or_no(row: Mapping[str, str | None], column: str) -> bool | None:
    """Read a row's yes or no in any usual spelling, None where it is silent; raises DataError for another word."""
    word = (row.get(column) or "").strip().lower()
    if word in _YES | _NO:
        return word in _YES
    if word not in _SILENT:
        raise DataError(f"labels.csv: {column} of {row['case']} is {word!r}; it must be true, false or left empty")
    return None


def _slice_mm(row: Mapping[str, str | None]) -> float:
    """Read the distance of slices, or the assumed one where the row is silent; raises DataError for what is none."""
    word = (row.get("slice_mm") or "").strip()
    if word.lower() in _SILENT:
        return ASSUMED_SLICE_MM
    with suppress(ValueError):
        if 0.0 < float(word) <= MOST_SLICE_MM:
            return float(word)
    raise DataError(f"labels.csv: slice_mm of {row['case']} is {word!r}; it must be mm between slices or left empty")


def _images(folder: Path) -> list[Path]:
    """List a case's image files; names that begin with a dot are other systems' own."""
    found = folder.iterdir() if folder.is_dir() else ()
    return [path for path in found if path.suffix.lower() == ".webp" and not path.name.startswith(".")]


def _read_mask(path: Path) -> NDArray[np.bool_]:
    """Read which pixels are tumour: a number or an index that is not 0, or any colour but black that is to be seen."""
    with _opened(path) as image:
        if image.mode not in {"RGB", "RGBA", "LA", "CMYK", "PA"}:
            numbers: NDArray[np.bool_] = np.asarray(image) != 0
            return numbers
        shown: NDArray[np.uint8] = np.asarray(image.convert("RGBA"))
    seen: NDArray[np.bool_] = shown[..., 3] > 0
    return seen & shown[..., :3].any(axis=-1)


def _read(path: Path, mode: str) -> NDArray[np.uint8]:
    with _opened(path) as image:
        return np.asarray(image.convert(mode))


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image; raises DataError where it cannot be read, also later."""
    try:
        with Image.open(path) as image:
            yield image
    except OSError as error:  # Pillow's own words quote the whole path
        raise DataError(f"{path.parent.name}/{path.name} cannot be read as an image") from error


def _number(stem: str) -> int:
    """The slice's number, so that 2 comes before 10; of a name without one, its place is by the name."""
    digits = re.findall(r"\d+", stem)
    return int(digits[-1]) if digits else -1


def usable(cases: Iterable[Case], leave_out: Sequence[str] = ()) -> list[Case]:
    """Keep the cases with a true T1C whose patient is not left out (by a part of the case's name)."""
    return [c for c in cases if c.has_t1c and not any(word in c.name for word in leave_out)]


def flair_only(cases: Iterable[Case], leave_out: Sequence[str] = ()) -> list[Case]:
    """Keep the cases without a true T1C: they can teach what FLAIR alone shows, and judge nothing."""
    return [c for c in cases if not c.has_t1c and not any(word in c.name for word in leave_out)]


def of_split(cases: Iterable[Case], split_file: Path, part: str) -> list[Case]:
    """Keep the cases that a split file names in one of its parts, training or validation; else raises DataError."""
    try:
        names = set(json.loads(split_file.read_text(encoding="utf-8"))[part])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{split_file} is no training's split.json: it names no {part} cases") from error
    return [c for c in cases if c.name in names]


def split(cases: Sequence[Case], folds: int, fold: int, seed: int) -> tuple[list[Case], list[Case]]:
    """Divide into (training, validation) by patient, with each site's share kept."""
    dealer = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    sites, patients = [c.site for c in cases], [c.patient for c in cases]
    train, held = list(dealer.split(np.zeros(len(cases)), sites, patients))[fold]
    refuse_shared_patients([cases[i] for i in train], [cases[i] for i in held])
    return [cases[i] for i in train], [cases[i] for i in held]


def refuse_shared_patients(train: Iterable[Case], held: Iterable[Case]) -> None:
    """Raise DataError where a patient is on both sides of a split."""
    if shared := {c.patient for c in train} & {c.patient for c in held}:
        raise DataError(f"{len(shared)} patients are in training and in validation")


def prepare(case: Case, cache: Path, *, bias_field: bool = True) -> Prepared:
    """Bring one case to the frame, by the node's own steps; kept in `cache` under a hash of its content.

    With `bias_field` False the bias field stays in: for measuring what its removal is worth.
    """
    images, tumour = case.read()
    key = f"{frame.VERSION} {FIELD} {frame.FRAME_PIXEL_MM} {frame.WIDEST_SECTION_MM2}" + ("" if bias_field else " raw")
    brain = outline(case, images, cache)
    made_from = (T1C, FLAIR) if case.has_t1c else (FLAIR,)
    key += ("" if case.has_t1c else " flair") + (" stripped" if brain.stripped else "") + case.spacing_key
    make = partial(_to_frame, images, tumour, brain, made_from, slice_mm=case.slice_mm, bias_field=bias_field)
    arrays = kept(cache, case.name, [images, tumour], key, make)
    placement = frame.Placement(tuple(arrays["centre"]), (float(arrays["pixel"]),) * 2)
    return Prepared(case, arrays["images"], arrays["brain"], arrays["tumour"], placement)


def outline(case: Case, images: NDArray[np.uint8], cache: Path) -> Outline:
    """Outline the brain of a case's images, (slices, rows, columns), as the node does; kept in `cache`.

    On T1C, or where no brain is seen there on the next best sequence; one that came without skull is what is there.
    Raises BrainNotFound.
    """
    reasons: dict[str, list[str]] = {}
    for channel in (T1C, T1, FLAIR) if case.has_t1c else (FLAIR, T1):
        stack = images[..., channel].astype(np.float32)
        make, key = partial(_brain, stack, case.slice_mm), MASK_VERSION + case.spacing_key
        try:
            mask = kept(cache, f"{case.name}-brain", [images[..., channel]], key, make)["brain"]
        except BrainNotFound as error:
            reasons.setdefault(str(error), []).append(_NAMES[channel])
            continue
        if stripped_brain(stack, mask) is not None:
            return Outline(mask, stripped=True)
        # FLAIR may have come without skull where T1C did not.
        shown = stripped_brain(images[..., FLAIR].astype(np.float32), mask)
        return Outline(mask, stripped=False) if shown is None else Outline(mask & shown, stripped=True)
    raise BrainNotFound("; ".join(f"{', '.join(names)}: {reason}" for reason, names in reasons.items()))


def _brain(stack: NDArray[np.float32], slice_mm: float) -> dict[str, Any]:
    return {"brain": frame.brain_mask(stack, (slice_mm, 1.0, 1.0))}


def kept(
    cache: Path, name: str, content: Sequence[NDArray[Any]], key: str, make: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """Read arrays from the cache, or make and keep them; content or key changed means another file."""
    digest = hashlib.sha256(key.encode())
    for array in content:
        digest.update(array.tobytes())
    path = cache / f"{name}-{digest.hexdigest()[:16]}.npz"
    if not path.exists():
        made = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        part = part_of(path)
        with part.open("wb") as file:  # by its name NumPy would add an ending
            np.savez(file, **made)
        part.replace(path)
    with np.load(path) as arrays:
        return dict(arrays)


def _to_frame(
    images: NDArray[np.uint8],
    tumour: NDArray[np.bool_],
    outlined: Outline,
    made_from: Sequence[int],
    *,
    slice_mm: float,
    bias_field: bool,
) -> dict[str, Any]:
    """Correct, normalise and resample one case; `made_from` names its channels, FLAIR last."""
    brain = outlined.mask
    pixel = frame.estimate_pixel_mm(brain)
    spacing = (slice_mm, pixel, pixel)
    placement = frame.place(brain, (pixel, pixel))
    channels = [images[..., c].astype(np.float32) for c in made_from]
    if bias_field:
        channels = [frame.correct_bias(c, brain, spacing) for c in channels]
    framed = [frame.to_frame(frame.standardise(c, brain), placement, FIELD) for c in channels]
    framed = [np.zeros_like(framed[-1])] * (2 - len(framed)) + framed
    wide = frame.to_frame(frame.widen(brain, (pixel, pixel), outlined.margin_mm), placement, FIELD, linear=False)
    target = frame.to_frame(tumour, placement, FIELD)
    return {
        "images": np.stack(framed, axis=1).astype(np.float16), "brain": wide > 0.5, "tumour": target > 0.5,
        "centre": np.array(placement.centre), "pixel": np.array(pixel),
    }  # fmt: skip
