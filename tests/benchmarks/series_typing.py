"""How many series descriptions are typed rightly, from the text with what columns a table has beside it.

    python -m tests.benchmarks.series_typing --csv ../shared/reference/series_descriptions.csv
    python -m tests.benchmarks.series_typing              (the descriptions composed by us)

The table's columns: description, TR, TE, TI, contrast, type, label_basis. Each description becomes a series alone in
its study. Types other than T1, T1C, T2 and FLAIR count as "not taken".
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import series_composed
from support_phantom import header_series, header_study

from operators.select_series import assess

WANTED = ("T1", "T1C", "T2", "FLAIR")
TIMES = {"TR": "RepetitionTime", "TE": "EchoTime", "TI": "InversionTime"}
WEAK = "rule output"


def typed(row: dict[str, str]) -> str:
    """What the node makes of one description."""
    attributes: dict[str, object] = {tag: float(row[name]) for name, tag in TIMES.items() if row.get(name)}
    if row.get("contrast", "").startswith(("yes", "no")):
        attributes["ContrastBolusAgent"] = "Gadolinium" if row["contrast"].startswith("yes") else "None"
    contrast = assess(header_study(header_series(1, row["description"], 20, **attributes))).verdicts[0].contrast
    return str(contrast) if contrast else "-"


def tell(name: str, pairs: Iterable[tuple[str, str]]) -> None:
    pairs = list(pairs)
    right = sum(want == got for want, got in pairs)
    forbidden = sum(want == "-" and got != "-" for want, got in pairs)
    swapped = sum("-" not in (want, got) and want != got for want, got in pairs)
    print(
        f"{name:34} {right:4} of {len(pairs):4} {right / max(len(pairs), 1):7.1%}   "
        f"forbidden taken {forbidden}, wrong contrast {swapped}, missed {len(pairs) - right - forbidden - swapped}"
    )


def of_table(path: Path, *, text_alone: bool) -> None:
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = []
    for row in rows:
        want = row["type"] if row["type"] in WANTED else "-"
        given = {"description": row["description"]} if text_alone else row
        found.append((row, want, typed(given)))
    print("\nthe description alone" if text_alone else "\nthe description with TR, TE, TI and contrast")
    for basis in ("weak", "better"):
        tell(f"{basis} labels", ((w, g) for r, w, g in found if (WEAK in r["label_basis"]) == (basis == "weak")))
    for basis in sorted({r["label_basis"] for r, *_ in found}):
        tell(f"  {basis[:30]}", ((w, g) for r, w, g in found if r["label_basis"] == basis))
    for kind, _ in Counter(r["type"] for r, *_ in found).most_common():
        tell(f"  type {kind}", ((w, g) for r, w, g in found if r["type"] == kind))
    for row, want, got in found:
        if want != got:
            print(f"    {row['description']!r}: {row['type']}, taken for {got}")


def of_composed() -> None:
    for name, rows in series_composed.SETS.items():
        found = [(text, want, typed({"description": text})) for text, want in rows]
        tell(f"composed by us, {name}", ((w, g) for _, w, g in found))
        for text, want, got in found:
            if want != got:
                print(f"    {text!r}: {want}, taken for {got}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path)
    given = parser.parse_args()
    if given.csv is None:
        of_composed()
        return
    of_table(given.csv, text_alone=False)
    of_table(given.csv, text_alone=True)


if __name__ == "__main__":
    main()
