"""A network namespace in which a handful of public addresses are this machine's own.

May touch: a namespace of its own, which ends with its last process.
Must never: change an interface or a route of the machine.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

from pyroute2 import IPRoute  # type: ignore[import-untyped]

from tests.rig.house import CHECKOUT
from tests.rig.process import Process

if TYPE_CHECKING:
    from collections.abc import Sequence

INSIDE: Final = "PUBLIC_NAMESPACE"  # the variable that is set inside
SITE: Final = "93.184.216.34"
OTHER_SITE: Final = "93.184.216.35"
SITE_V6: Final = "2606:2800:220:1::1"
METADATA: Final = "169.254.169.254"
PRIVATE: Final = "10.0.0.1"
PRIVATE_V6: Final = "fd00:ec2::254"
ADDRESSES: Final = (SITE, OTHER_SITE, SITE_V6, METADATA, PRIVATE, PRIVATE_V6)
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


def main() -> None:
    """Give the namespace its addresses and become the command."""
    with IPRoute() as route:
        loopback = route.link_lookup(ifname="lo")[0]
        route.link("set", index=loopback, state="up")
        for address in ADDRESSES:
            length = 128 if ":" in address else 32
            route.addr("add", index=loopback, address=address, prefixlen=length)
    print(_READY, file=sys.stderr, flush=True)
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
