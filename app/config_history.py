"""Settings of where earlier examinations are looked for."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from app.config_base import AETitle, Port, Section, hold_address
from app.config_tls import DestinationTls, PortTls


class HistoryPacs(Section):
    """A PACS that is asked for earlier reports of a patient by C-FIND and sends them by C-MOVE."""

    ae_title: AETitle
    """Title of the PACS."""
    host: str
    """Its host name or address."""
    port: Annotated[int, Field(ge=1, le=65535)]
    """Its TCP port."""
    calling_ae_title: AETitle = "GLIOMA_NODE"
    """Title the node calls itself when it asks."""
    tls: DestinationTls | None = None
    """With it the PACS is asked over TLS; without it, in plain DICOM. What it sends is another association, for which
    `move_tls` stands."""
    move_ae_title: AETitle = "GLIOMA_HISTORY"
    """Title to which the PACS sends; it must know it, at `move_port` of this machine."""
    move_port: Port = 11113
    """TCP port that is open while reports are fetched, to the PACS's title and addresses alone."""
    move_host: str = "0.0.0.0"  # noqa: S104 - a PACS sends from another machine
    """Address to listen on meanwhile."""
    move_from: tuple[Annotated[str, AfterValidator(hold_address)], ...] = ()
    """IP addresses the PACS sends from; none: the one that `host` has."""
    move_tls: PortTls | None = None
    """With it `move_port` speaks TLS alone; without it, plain DICOM alone, whatever `tls` says."""
    studies: int = Field(default=3, ge=1)
    """How many of the patient's latest other studies are looked into."""
    timeout_seconds: float = Field(default=20.0, gt=0)
    """A silent PACS is given up after this long, one that keeps us waiting after six times as long; the study goes on
    without the comparison."""

    @property
    def moved_by(self) -> str:
        """What `move_port` speaks, in words."""
        return "TLS" if self.move_tls is not None else "plain DICOM"


class HistoryConfig(Section):
    """Where earlier examinations of a patient are looked for, to compare with."""

    archive: bool = True
    """In the node's own archive."""
    pacs: HistoryPacs | None = None
    """In a PACS; none by default."""
