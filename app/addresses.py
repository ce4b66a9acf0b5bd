"""Addresses that connect: which of them are listed, and which count as one."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from app.config import Peer

_HOME_BITS = 64
"""Of an IPv6 address; the rest is its owner's to choose (RFC 4291 section 2.5.1), and to change each time."""


def address_of(told: str) -> IPv4Address | IPv6Address:
    """Return an address without the interface that it came by; one of IPv4 told in IPv6's form is of IPv4."""
    address = ip_address(told.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


class Addresses:
    """Those of the peers that are listed."""

    def __init__(self, peers: Iterable[Peer]) -> None:
        listed = [peer.address for peer in peers]
        self._listed = frozenset(ip_address(address) for address in listed if address is not None)
        self.is_closed = bool(listed) and None not in listed
        """Whether each peer has one: whoever comes from elsewhere is none of them."""

    def __len__(self) -> int:
        """How many are listed."""
        return len(self._listed)

    def __contains__(self, told: str) -> bool:
        """Say whether one is listed."""
        return address_of(told) in self._listed

    def share_of(self, told: str) -> str:
        """Return what an address counts as where each has its share.

        One that is listed counts alone: its neighbours shall not use up what is its own. So does one of the same link,
        as all hosts there have the same network (fe80::/64).
        """
        address = address_of(told)
        if address in self._listed or isinstance(address, IPv4Address) or address.is_link_local:
            return told if isinstance(address, IPv6Address) else str(address)
        return str(ip_network((address, _HOME_BITS), strict=False))
