"""Result files as JSON, and what is wrong with one."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a result file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(path)
    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def part_of(path: Path) -> Path:
    """Name the file that becomes `path` when it is whole: this process's own, as trainings run side by side."""
    return path.with_name(f"{path.name}.{os.getpid()}.part")


def read_json(path: Path) -> dict[str, Any]:
    """Read a result file; raises `OSError` where there is none."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def first_fault(error: ValidationError) -> str:
    """Say in one line where content is not of its form, and how; pydantic's own words take several."""
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else first["msg"]
