"""Whether an address is this machine's own: the kernel is asked where it would send a packet.

May touch: a netlink socket of its own, for one question at a time.
Must never: send anything to the network, wait for an answer, or keep one.
"""

from __future__ import annotations

import errno
import socket
import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Final

# The numbers are those of netlink(7) and rtnetlink(7), <linux/netlink.h>, <linux/rtnetlink.h>.
_HEADER: Final = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_ROUTE: Final = struct.Struct("=8BI")  # family, destination's bits, ..., the route's type, flags
_ATTRIBUTE: Final = struct.Struct("=HH")  # length, type
_TYPE_AT: Final = _HEADER.size + 7
_NLMSG_ERROR: Final = 2
_RTM_NEWROUTE: Final = 24
_RTM_GETROUTE: Final = 26
_NLM_F_REQUEST: Final = 1
_RTA_DST: Final = 1
_OWN: Final = frozenset({2, 4})  # RTN_LOCAL; RTN_ANYCAST: of a router, RFC 4291 section 2.6.1
_LARGEST: Final = 4096  # bytes of an answer; one route has about a hundred
# The kernel's words for "there is no way to it", which a connection would meet as well: none,
# unreachable, blackhole, prohibit, throw; and no IPv6 at all.
_NO_WAY: Final = frozenset(
    {
        errno.ENETUNREACH,
        errno.EHOSTUNREACH,
        errno.EINVAL,
        errno.EACCES,
        errno.EAGAIN,
        errno.EOPNOTSUPP,
    }
)


def question(ip: IPv4Address | IPv6Address) -> bytes:
    """What to ask the kernel about `ip`: RTM_GETROUTE, for one address."""
    family = socket.AF_INET if isinstance(ip, IPv4Address) else socket.AF_INET6
    address = ip.packed
    route = _ROUTE.pack(family, ip.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
    body = route + _ATTRIBUTE.pack(_ATTRIBUTE.size + len(address), _RTA_DST) + address
    return _HEADER.pack(_HEADER.size + len(body), _RTM_GETROUTE, _NLM_F_REQUEST, 0, 0) + body


def is_own(asked: bytes) -> bool:
    """Whether what is sent to the address of this `question` would stay on this machine, now.

    So it is for all addresses of its interfaces, and for those that it takes for its own by a
    route of the type `local`. Raises OSError if it can't be found out, for lack of a descriptor
    or of memory.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC) as kernel:
        kernel.sendto(asked, (0, 0))
        answer = kernel.recv(_LARGEST, socket.MSG_DONTWAIT)  # it is there when sendto returns
    kind = _HEADER.unpack_from(answer)[1]
    if kind == _RTM_NEWROUTE:
        return answer[_TYPE_AT] in _OWN
    code = -struct.unpack_from("=i", answer, _HEADER.size)[0] if kind == _NLMSG_ERROR else 0
    if code in _NO_WAY:
        return False
    raise OSError(code, "the kernel does not say whose address it is")


def lacking() -> str:
    """Why the kernel can't be asked, in words; empty if it can: it knows 127.0.0.1 for its own."""
    try:
        known = is_own(question(IPv4Address("127.0.0.1")))
    except OSError as error:
        return f"rtnetlink: {error.strerror}"
    return "" if known else "rtnetlink: 127.0.0.1 is not this machine's own, it says"
