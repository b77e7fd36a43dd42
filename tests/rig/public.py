"""Two network namespaces with public addresses: a machine for the scraper, and one for the sites.

May touch: namespaces of its own, which end with their last process.
Must never: change an interface or a route of the machine.
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pyroute2 import IPRoute, netns  # type: ignore[import-untyped]

from tests.rig.checks.house import CHECKOUT
from tests.rig.process import Process

if TYPE_CHECKING:
    from collections.abc import Sequence

INSIDE: Final = "PUBLIC_NAMESPACE"  # the variable that is set inside
# Of the sites, which the scraper's machine has for neighbours.
SITE: Final = "93.184.216.34"
OTHER_SITE: Final = "93.184.216.35"
MOVING: Final = "93.184.216.36"  # a test gives it to the scraper's machine as well
SITE_V6: Final = "2606:2800:220:1::1"
# The scraper's machine's own: of its interface, beside that in the same network, of another
# interface, and of a route of the type `local`, with all of its network.
OWN: Final = "93.184.216.2"
OWN_SECOND: Final = "93.184.216.3"
OWN_OTHER: Final = "93.184.218.1"
OWN_ROUTED: Final = "93.184.219.7"
OWN_V6: Final = "2606:2800:220:1::2"
OWN_SECOND_V6: Final = "2606:2800:220:1::3"
ALL_OWN: Final = (OWN, OWN_SECOND, OWN_OTHER, OWN_ROUTED, OWN_V6, OWN_SECOND_V6)
METADATA: Final = "169.254.169.254"
PRIVATE: Final = "10.0.0.1"
PRIVATE_V6: Final = "fd00:ec2::254"
_SITES: Final = "PUBLIC_SITES"  # the variable that holds the descriptor of the sites' namespace
_CLONE_NEWNET: Final = 0x40000000
_NO_DAD: Final = 0x02  # IFA_F_NODAD: an IPv6 address can be used at once
_LOCAL_TABLE: Final = 255
_READY: Final = "the namespace is ready"


class NamespaceError(RuntimeError):
    """No namespace can be made here; the message ends with what the system says."""


def run(argv: Sequence[str], timeout: float) -> Process:
    """Run a command to its end inside, as root there, with the checkout as its folder."""
    user = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    enter = ["unshare", *user, "--net", sys.executable, "-m", "tests.rig.public"]
    with Process([*enter, *argv], env={INSIDE: "1"}, cwd=CHECKOUT) as process:
        process.wait(timeout)
    if _READY not in process.stderr:
        raise NamespaceError(
            "these tests need a network namespace (unshare --net), for which the kernel wants"
            f" CAP_SYS_ADMIN or unprivileged user namespaces:\n{process.tail()}"
        )
    return process


def listen(address: str, port: int) -> socket.socket:
    """A listening socket in the namespace that has this address; call it from the main thread.

    A socket stays in the namespace that it was made in.
    """
    ours = address in (SITE, OTHER_SITE, MOVING, SITE_V6)
    here = _namespace()
    if ours:
        netns.setns(int(os.environ[_SITES]))
    try:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return socket.create_server((address, port), family=family)
    finally:
        netns.setns(here)
        os.close(here)


def take(address: str) -> None:
    """Give the scraper's machine one more address, which it keeps."""
    _add("lo", (address,))


def main() -> None:
    """Make the sites' namespace, join the two, and become the command on the scraper's side."""
    here = _namespace()
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    sites = _namespace()
    with IPRoute() as route:
        peer = {"ifname": "wire", "net_ns_fd": here}
        route.link("add", ifname="wire", kind="veth", peer=peer)
    _up("lo", "wire")
    _add("wire", (SITE, OTHER_SITE, MOVING), 24)
    _add("wire", (SITE_V6,), 64)
    netns.setns(here)
    _up("lo", "wire")
    _add("wire", (OWN, OWN_SECOND), 24)
    _add("wire", (OWN_V6, OWN_SECOND_V6), 64)
    _add("lo", (OWN_OTHER, METADATA, PRIVATE, PRIVATE_V6))
    with IPRoute() as route:
        loopback = route.link_lookup(ifname="lo")[0]
        network = {"dst": "93.184.219.0/24", "type": "local", "table": _LOCAL_TABLE}
        route.route("add", oif=loopback, scope="host", **network)
    os.set_inheritable(sites, True)
    os.environ[_SITES] = str(sites)
    print(_READY, file=sys.stderr, flush=True)
    os.execvp(sys.argv[1], sys.argv[1:])


def _namespace() -> int:
    """A descriptor of the namespace that we are in."""
    return os.open(Path("/proc/self/ns/net"), os.O_RDONLY)


def _up(*names: str) -> None:
    with IPRoute() as route:
        for name in names:
            route.link("set", index=route.link_lookup(ifname=name)[0], state="up")


def _add(name: str, addresses: Sequence[str], bits: int = 0) -> None:
    with IPRoute() as route:
        index = route.link_lookup(ifname=name)[0]
        for address in addresses:
            length = bits or (128 if ":" in address else 32)
            flags = {"flags": _NO_DAD} if ":" in address else {}
            route.addr("add", index=index, address=address, prefixlen=length, **flags)


if __name__ == "__main__":
    main()
