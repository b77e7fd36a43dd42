"""Which values of a Host header mean this machine, and which addresses only it can reach. Pure.

May touch: texts.
Must never: resolve a name.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

_HOST: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(?::[0-9]{1,5})?")


def is_loopback(host: str) -> bool:
    """Return whether a host is `localhost` or an address that only this machine can reach."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_own_host(header: str) -> bool:
    """Return whether a Host header is for this machine by a loopback address, or `localhost`."""
    match = _HOST.fullmatch(header.strip())
    return match is not None and is_loopback(match["host"].strip("[]"))
