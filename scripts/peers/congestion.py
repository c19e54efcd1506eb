"""Networks with another TCP congestion control, without touching the machine's own setting.

The comparison moves into a network namespace of its own, which ends with it, even by SIGKILL. In there the route to
127.0.0.1 names the congestion control that new connections get on both sides. The setting
``net.ipv4.tcp_congestion_control`` would not do: outside of the first namespace it takes only what
``tcp_allowed_congestion_control`` lists for the whole machine, often without cubic.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

from scripts.peers.install import find
from stat7store.errors import Malformed, Unavailable

_AVAILABLE = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")
_IPROUTE = "apt-get install iproute2"
_CLONE_NEWNET = 0x40000000  # linux/sched.h
_SIOCSIFFLAGS = 0x8914  # linux/sockios.h
_IFF_UP = 1  # linux/if.h
_INTERFACE = struct.Struct("16sh22x")  # linux/if.h: struct ifreq with its flags
_ROUTE = "local 127.0.0.1 dev lo table local proto kernel scope host src 127.0.0.1"
_LONGEST_NAME = 16  # linux/tcp.h: TCP_CA_NAME_MAX


def enter_own_network(names: Sequence[str]) -> None:
    """Move this process, and all that it starts from now on, into a network of its own with a loopback interface.

    Call it before any thread is started, and never twice. Raises ``Malformed`` if the kernel knows no congestion
    control of one of these names, ``Unavailable`` if this user may not have a network of their own.
    """
    known = _AVAILABLE.read_text().split()
    unknown = [name for name in names if name not in known]
    if unknown:
        raise Malformed(
            f"this kernel has no congestion control {', '.join(unknown)} ready; it has {', '.join(known)}; "
            f"`modprobe tcp_{unknown[0]}` may bring it"
        )
    if not find("ip"):
        raise Unavailable(f"ip is missing, which sets the congestion control: {_IPROUTE}")
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET) != 0:
        raise Unavailable(
            f"--congestion needs a network namespace: {os.strerror(ctypes.get_errno())}; run it as root, or without"
        )
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, _INTERFACE.pack(b"lo", _IFF_UP))


def use_congestion(name: str) -> None:
    """Give new connections to 127.0.0.1 this congestion control, "" the kernel's own; only in an own network.

    Raises ``Unavailable`` if a connection does not have it then.
    """
    command = [find("ip"), "route", "replace", *_ROUTE.split(), *(["congctl", name] if name else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Unavailable(f"ip cannot set the congestion control {name}: {done.stderr.strip()}")
    used = congestion_of_connections()
    if name and used != (name, name):
        raise Unavailable(f"connections use the congestion control {' and '.join(used)} instead of {name}")


def congestion_of_connections() -> tuple[str, str]:
    """Return the congestion control of both sides of a new connection to 127.0.0.1: client's, server's."""
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as client:
        client.connect(listening.getsockname())
        accepted, _ = listening.accept()
        with accepted:
            return _congestion_of(client), _congestion_of(accepted)


def _congestion_of(connection: socket.socket) -> str:
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _LONGEST_NAME).rstrip(b"\0").decode()
