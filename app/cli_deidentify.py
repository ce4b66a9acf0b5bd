"""`python -m app deidentify`: the images to the results that a research destination gets."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from app.cli_common import ConfigFile, bar, out, settings_of
from app.errors import InputError
from operators.deidentify_form import Profile


def deidentify(
    folder: Annotated[Path, typer.Argument(help="folder with DICOM files, searched through all its levels")],
    target: Annotated[Path, typer.Option("--out", help="folder for the copies; must not hold anything")],
    profile: Annotated[Profile, typer.Option("--profile", help="as the destination's `deidentify`")] = "basic",
    config: ConfigFile = None,
) -> None:
    """De-identify a folder as results are for a destination with `deidentify`; exit 1 where a file is left out.

    With the same settings, so the same secret, images and results fit together. Faces stay in the images.
    """
    settings = settings_of(config)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give the folder that holds the DICOM files")
    from app.deidentify import copy_folder, files_below, open_deidentifier

    # Warns of values, and quotes them.
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    deidentifier = open_deidentifier(settings, profile)
    with bar() as progress:
        task = progress.add_task("de-identifying", total=len(files_below(folder)))
        copies = copy_folder(folder, target, deidentifier, lambda: progress.advance(task))
    if copies.left_out:
        table = Table("file", title="Left out", title_justify="left", box=None)
        table.add_column("why", overflow="fold")
        for path, why in copies.left_out.items():
            table.add_row(escape(str(path.relative_to(folder))), why)
        out.print(table, "")
    total = len(copies.made) + len(copies.left_out)
    out.print(f"{len(copies.made)} of {total} files de-identified into {target}", highlight=False, soft_wrap=True)
    if copies.left_out:
        raise typer.Exit(1)
