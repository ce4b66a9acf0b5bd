"""Settings of what an administrator watches: audit, retention, monitoring, log."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from app.config_base import Port, Section
from app.log import LogFormat


class SyslogConfig(Section):
    """A collector of audit messages: syslog over TLS."""

    host: str
    """Its host name or address; over TLS the name in its certificate."""
    port: Annotated[int, Field(ge=1, le=65535)] = 6514
    """Its TCP port."""
    ca: Path | None = None
    """File of the authorities that may have signed its certificate; none: this machine's."""
    certificate: Path | None = None
    """The node's own certificate, where the collector asks for one."""
    key: Path | None = None
    """Its key, where that is in another file."""
    plain: bool = False
    """Without TLS. For a collector on this machine only."""


class AuditConfig(Section):
    """The audit trail (docs/security.md)."""

    enabled: bool = True
    """Keeps DATA_DIR/audit.log: who sent what, who was turned away, what went where."""
    syslog: SyslogConfig | None = None
    """Where it is sent to as well; none by default."""


class RetentionConfig(Section):
    """How long the node keeps what it is done with; what waits, is in work or is owed is never removed."""

    inbox_days: float = Field(default=30.0, ge=0)
    """Images of a study whose results are done and delivered, in days since; 0: for ever."""
    failed_days: float = Field(default=90.0, ge=0)
    """Images of a study that failed or is quarantined, in days since; 0: for ever."""
    archive_days: float = Field(default=0.0, ge=0)
    """Results in the archive, in days since they were made; 0: for ever. Comparison with earlier examinations reads
    them, and without destinations there is no other copy."""


class OperationConfig(Section):
    """The HTTP endpoint for monitoring: /health, /ready and /metrics; it shows no patient's identity."""

    host: str = "127.0.0.1"
    """Address to listen on. There is no login: open it only to the network of the monitoring."""
    port: Port = 0
    """TCP port to listen on; 0: no endpoint."""


class LogConfig(Section):
    """The log, on standard error."""

    format: LogFormat = "text"
    """text (for people) or json (a JSON object a line, with the job id where there is one)."""
