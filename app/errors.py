"""What can go wrong outside the analysis; each becomes one line and exit status 2 on the command line.

* NodeError
  + ConfigError      app.yaml or the environment is wrong; the message names the key
  + InputError       a folder or file given by the user cannot be used
  + PeerError        a DICOM peer cannot be reached, or refused
    - KindsRefused   it takes associations, but none of the kinds of object that were to be sent
    - PeerUntrusted  it or this node did not prove by TLS who it is
  + JournalError     the journal cannot be opened
  + TlsError         a certificate, key or CA file cannot be used
* Stopped            asked to stop before there was anything to stop; no fault
"""

from __future__ import annotations


class NodeError(Exception):
    """Something the operator can mend; the message says how."""


class Stopped(Exception):
    """The node was asked to stop before it had begun."""


class ConfigError(NodeError):
    """app.yaml or the environment is wrong."""


class InputError(NodeError):
    """A folder or file given by the user cannot be used."""


class PeerError(NodeError):
    """A DICOM peer cannot be reached, or refused."""


class KindsRefused(PeerError):
    """A DICOM peer takes none of the kinds of object that were to be sent."""


class PeerUntrusted(PeerError):
    """A peer, or this node to it, did not prove by TLS who it is: nothing was told it."""


class JournalError(NodeError):
    """The journal cannot be opened."""


class TlsError(NodeError):
    """A certificate, key or CA file cannot be used; names the file, never what is in it."""
