"""Settings of how a destination is held to what it was sent, and of one that is reached over the web."""

from __future__ import annotations

from pydantic import Field

from app.config_base import AETitle, Section


class CommitmentConfig(Section):
    """Storage commitment (PS3.4 annex J): what a destination took stays owed until it reports that it keeps it.

    The report comes on the association on which it is asked for, or on one to the node's own receiver: that must list
    the destination under `node.receiver.peers`, and have the title that results are sent under.
    """

    timeout_seconds: float = Field(default=600.0, gt=0)
    """Without a report for this long it is asked for anew, under a new transaction UID; the wait doubles each time."""
    longest_timeout_seconds: float = Field(default=86_400.0, gt=0)
    """The wait for a report never grows beyond this."""
    stay_seconds: float = Field(default=2.0, ge=0)
    """The association on which it was asked stays open for the report for this long at most."""
    reported_by: AETitle | None = None
    """Title under which the reports come, where it is not the destination's `ae_title`."""

    def patience(self, asked: int) -> float:
        """Return how long, in seconds, to wait for the report when it is asked for the `asked`-th time."""
        return min(self.timeout_seconds * 2.0 ** min(asked - 1, 32), self.longest_timeout_seconds)
