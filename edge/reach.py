"""What a registered meter may reach: which addresses the service connects to on its behalf.

Whoever may register a meter chooses a host, and hears what came of connecting to it. So that this
is no way into every network that the controller is on, `[security] allowed_networks` says where
meters are. The addresses at which clouds hand out their machines' credentials are never allowed.

An address is judged as what it leads to in the end: one of IPv6 that stands for one of IPv4 is
that one. A name is no address; it is judged by what it resolves to, when it is connected to.

Sources: RFC 4291, section 2.5.5.2 (IPv4-mapped addresses); RFC 6052, section 2.1 (translated ones);
for the metadata addresses the documentation of AWS (EC2 instances, ECS tasks, EKS pods), Google
Compute Engine and OpenStack Compute.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from edge.structure import shown

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

METADATA = tuple(
    map(
        ipaddress.ip_network,
        (
            "169.254.169.254", "169.254.170.2", "169.254.170.23",
            "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fe80::a9fe:a9fe",
        ),
    )
)  # fmt: skip
"""Where clouds hand out credentials; each a network of one address."""

_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
_TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")
"""Addresses whose last 32 bits are the one of IPv4 that they lead to."""


def parse_network(text: str) -> Network:
    """Make a network of text like 192.168.1.0/24, fd00::/8 or 192.168.1.5.

    Raises ValueError with a sentence.
    """
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(
            f"{shown(text)} is no network; write it like 192.168.1.0/24, 192.168.1.5 or fd00::/8"
        ) from None
    if "%" in text:
        raise ValueError(f"{shown(text)} names an interface, which is not looked at; leave %… out")
    if "/" in text and network.network_address != ipaddress.ip_interface(text).ip:
        raise ValueError(
            f"{shown(text)} has bits set beyond its length; write {network}, or leave the length "
            "out for that address alone"
        )
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        inner = ipaddress.IPv4Address(int(network.network_address) & 0xFFFFFFFF)
        length = network.prefixlen - 96
        raise ValueError(f"{shown(text)} is one of IPv4; write {inner}/{length}")
    return network


@dataclass(frozen=True)
class Reach:
    """Which addresses meters may have. networks: None for any."""

    networks: tuple[Network, ...] | None = None

    @staticmethod
    def of(texts: Sequence[str] | None) -> Reach:
        """Make it of networks in text; None allows any. Raises ValueError with a sentence."""
        return Reach(None if texts is None else tuple(map(parse_network, texts)))

    def refusal(self, host: str) -> str | None:
        """Say why there may be no connection to an IP address: the rest of a sentence about it.

        None where there may be one, and for a name.
        """
        try:
            address = _meant(ipaddress.ip_address(host))
        except ValueError:
            return None
        if any(address in network for network in METADATA):
            return "hands out a cloud machine's credentials and is no meter; give a meter's address"
        if self.networks is not None and not any(address in one for one in self.networks):
            return (
                "is in none of the networks that meters may be in; give another address, or add "
                "its network to security.allowed_networks in the configuration"
            )
        return None


ANYWHERE = Reach()
"""What may be reached where nothing is configured."""


def _meant(address: Address) -> Address:
    """The address of IPv4 that one of IPv6 stands for; any other as it is."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _MAPPED or address in _TRANSLATED:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address
