"""How much an image may ask of the node: the section `pixels` of app.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field


@dataclass(frozen=True)
class PixelLimits:
    """What is refused before memory is taken for it, and what the process that decodes may take."""

    __pydantic_config__: ClassVar[Mapping[str, Any]] = {"extra": "forbid", "use_attribute_docstrings": True}

    side: Annotated[int, Field(ge=64)] = 4_096
    """Rows, and Columns, of the largest image that is read."""
    series_mb: Annotated[int, Field(ge=1)] = 1_000
    """Largest series that is read, in MB of memory: Rows x Columns x slices x 4 bytes."""
    decode_mb: Annotated[int, Field(ge=64)] = 1_000
    """Memory that the process which decodes compressed pixel data may take beyond its libraries, in MB."""
    decode_seconds: Annotated[float, Field(gt=0)] = 60.0
    """When a few frames take longer to decode, the process is replaced, in seconds."""
