"""What the commands share: where they print, and how they find their settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from app.config import Settings, load_settings
from app.errors import ConfigError

out, err = Console(), Console(stderr=True)

ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", help="settings file; default app.yaml if it is there")
]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON object on standard output")]


def settings_of(path: Path | None) -> Settings:
    """Read the given file, or app.yaml in the current folder if there is one."""
    if path is None and Path("app.yaml").exists():
        path = Path("app.yaml")
    elif path is not None and not path.exists():
        raise ConfigError(f"there is no settings file {path}")
    return load_settings(path)


def bar() -> Progress:
    """Make a progress bar that leaves nothing behind."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:<16}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=err, transient=True)
