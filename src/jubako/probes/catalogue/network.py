"""Probes of net.*: bytes out, bytes in, and rare kinds of sockets."""

from __future__ import annotations

from typing import Final

from jubako.probes.catalogue._ways import BARE, HOST, POWERFUL, lacking
from jubako.probes.model import Outside, Probe, Wall

__all__ = ["NETWORK"]

_SHARED: Final = lacking(Wall.NETWORK)


def _out(name: str, title: str, kind: str, address: str, port: str) -> Probe:
    return Probe(
        name=name,
        control="net.default-deny",
        title=title,
        program="network/connect.py",
        arguments={"kind": kind, "addresses": address, "port": port, "mark": "{mark}"},
        outside=_SHARED,
        witness="calls",
    )


def _socket(name: str, title: str, kinds: str, *, family: int, protocol: int = 0, outside: Outside = BARE) -> Probe:
    return Probe(
        name=name,
        control="net.sockets",
        title=title,
        program="network/one_socket.py",
        arguments={"family": str(family), "kinds": kinds, "protocol": str(protocol)},
        outside=outside,
    )


_DENY: Final = (
    _out("host-loopback-tcp", "Call a TCP service on the host's loopback", "tcp", "{loopback}", "{tcp_port}"),
    _out("host-loopback-udp", "Send a datagram to the host's loopback", "udp", "{loopback}", "{udp_port}"),
    _out("host-address-tcp", "Call a TCP service on the host's own address", "tcp", "{address}", "{tcp_port}"),
    _out("host-address-udp", "Send a datagram to the host's own address", "udp", "{address}", "{udp_port}"),
    _out("ipv6", "Call a TCP service over IPv6", "tcp", "::1", "{tcp6_port}"),
    Probe(
        name="dns",
        control="net.default-deny",
        title="Bring data out in the name of a DNS query",
        program="network/dns.py",
        arguments={"server": "{loopback}", "port": "{udp_port}", "mark": "{mark}"},
        outside=_SHARED,
        witness="calls",
    ),
    Probe(
        name="resolver",
        control="net.default-deny",
        title="Find a resolver to leak names through",
        program="network/resolvers.py",
        outside=HOST,
    ),
    Probe(
        name="ping",
        control="net.default-deny",
        title="Bring data out by ping",
        program="network/echo.py",
        arguments={"address": "127.0.0.1"},
        outside=POWERFUL,
    ),
    Probe(
        name="metadata",
        control="net.default-deny",
        title="Ask the cloud's metadata service for credentials",
        program="network/metadata.py",
        outside=lacking(Wall.CAPABILITIES, stage="network/metadata_stage.py"),
    ),
    Probe(
        name="abstract-socket",
        control="net.default-deny",
        title="Call a host service over an abstract unix socket",
        program="network/unix_socket.py",
        arguments={"kind": "abstract", "name": "{abstract}"},
        outside=_SHARED,
        witness="calls",
    ),
    Probe(
        name="interfaces",
        control="net.default-deny",
        title="See a network interface or route beyond loopback",
        program="network/interfaces.py",
        outside=_SHARED,
    ),
    Probe(
        name="configure",
        control="net.default-deny",
        title="Add an address or a tunnel",
        program="network/configure.py",
        outside=POWERFUL,
    ),
    Probe(
        name="inbound",
        control="net.default-deny",
        title="Be called from the host on a port of its own",
        program="network/listen.py",
        arguments={"seconds": "1.0"},
        outside=_SHARED,
        scenario="inbound",
        alone=True,
    ),
)

_SOCKETS: Final = (
    Probe(
        name="every-family",
        control="net.sockets",
        title="Make a socket of every family and kind but the usual",
        program="network/families.py",
        outside=BARE,
    ),
    _socket("netlink", "Make a netlink socket", "2,3", family=16),
    _socket("packet", "Make a packet socket", "2,3", family=17, outside=POWERFUL),
    _socket("old-packet", "Make a packet socket in the old way", "10", family=2, protocol=0x300, outside=POWERFUL),
    _socket("raw", "Make a raw internet socket", "3", family=2, protocol=255, outside=POWERFUL),
    _socket("raw-ipv6", "Make a raw IPv6 socket", "3", family=10, protocol=255, outside=POWERFUL),
    _socket("vsock", "Make a socket to the hypervisor", "1,2,5", family=40),
    _socket("kernel-crypto", "Make a kernel crypto socket", "5", family=38),
    _socket("express-data-path", "Make an XDP socket", "3", family=44, outside=POWERFUL),
    _socket("multipath", "Make a multipath TCP socket", "1", family=2, protocol=262),
    _socket("sctp-and-others", "Make an SCTP, DCCP or UDP-Lite socket", "1,2,5,6", family=2, protocol=136),
    Probe(
        name="socket-filters",
        control="net.sockets",
        title="Load a filter program onto a socket, or kernel TLS",
        program="network/filters.py",
        outside=BARE,
    ),
)

NETWORK: Final = (*_DENY, *_SOCKETS)
"""All probes of net.*."""
