"""Proxies that the operator named: which are there, the SOCKS5 handshake, what their failures say.

May touch: the network, up to a SOCKS5 proxy.
Must never: say a proxy's address, user or password to anyone but the proxy.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from python_socks import ProxyConnectionError, ProxyError, ProxyTimeoutError, ProxyType
from python_socks.async_.asyncio import Proxy

if TYPE_CHECKING:
    import socket

    from yarl import URL

_TARGET: Final = {  # replies that speak of the target, not of the proxy (RFC 1928 section 6)
    3: errno.ENETUNREACH,
    4: errno.EHOSTUNREACH,
    5: errno.ECONNREFUSED,
    6: errno.ETIMEDOUT,
}
_REASONS: Final = {
    1: "it failed (SOCKS reply 1)",
    2: "its rules do not allow this connection (SOCKS reply 2)",
    7: "it can't connect at all (SOCKS reply 7)",
    8: "it can't connect to this kind of address (SOCKS reply 8)",
}
_NOT_SOCKS: Final = "its handshake broke off or is not SOCKS5"
TIMEOUT: Final = "no connection through it within the connect timeout"
UNREACHABLE: Final = "it can't be reached"
UNAUTHORISED: Final = "it does not accept our user name and password, or wants some"


class ProxyFailed(Exception):  # noqa: N818 - aiohttp would wrap one of its own kinds
    """A proxy did not do its part. str() is why; `retryable`: it may be better later."""

    def __init__(self, reason: str, *, retryable: bool) -> None:
        super().__init__(reason)
        self.retryable = retryable


class Socks:
    """A SOCKS5 proxy (RFC 1928, 1929), by its URL. `timeout` in seconds, for one connection."""

    def __init__(self, url: URL, timeout: float) -> None:
        assert url.host is not None
        assert url.port is not None
        self._proxy = (ProxyType.SOCKS5, url.host, url.port, url.user, url.password)
        self._timeout = timeout

    async def dial(self, address: str, port: int) -> socket.socket:
        """A socket that the proxy has connected to this IP address.

        Raises OSError with an errno if the proxy says that the target can't be
        reached, ProxyFailed for all else.
        """
        try:
            return await Proxy(*self._proxy).connect(address, port, self._timeout)
        except ProxyTimeoutError:
            raise ProxyFailed(TIMEOUT, retryable=True) from None
        except ProxyConnectionError:
            raise ProxyFailed(UNREACHABLE, retryable=True) from None
        except ProxyError as error:
            if error.error_code in _TARGET:
                raise OSError(_TARGET[error.error_code], "said by the proxy") from None
            raise _failed(error) from None
        except OSError:
            raise ProxyFailed("the connection to it was lost", retryable=True) from None
        except UnicodeDecodeError:  # in a name that the proxy gives itself
            raise ProxyFailed(_NOT_SOCKS, retryable=True) from None
        except ValueError:  # the library's own words may hold the password
            raise ProxyFailed(
                "not SOCKS5, or a user name or password that is not ASCII", retryable=False
            ) from None


def _failed(error: ProxyError) -> ProxyFailed:
    """The library tells a refused password by its words alone."""
    if error.error_code in _REASONS:
        return ProxyFailed(_REASONS[error.error_code], retryable=True)
    if "authentication" in str(error).lower():
        return ProxyFailed(UNAUTHORISED, retryable=False)
    return ProxyFailed(_NOT_SOCKS, retryable=True)
