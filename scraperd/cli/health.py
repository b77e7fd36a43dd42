"""`scraperd health`: asks a daemon on this machine how it is, for probes where there is no curl.

May touch: the configuration, one socket, the exit code.
Must never: import what takes long: a probe has a tenth of a second.
"""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING, Final

import click

from scraperd.cli.console import EXIT_CONFIG, EXIT_FAILED, epilog, fail, say
from scraperd.cli.shared.options import Number, config_of, with_config

if TYPE_CHECKING:
    from pathlib import Path

LARGEST: Final = 65_536  # bytes of an answer
_OK: Final = 200


@click.command("health", epilog=epilog("scraperd health", "scraperd health --live"))
@with_config
@click.option("--live", is_flag=True, help="Only whether its event loop turns (/healthz).")
@click.option(
    "--timeout",
    type=Number(min=0.01, max=60),
    default=1.0,
    show_default=True,
    help="Seconds to wait for the answer.",
)
def command(path: Path | None, *, live: bool, timeout: float) -> None:
    """Ask the daemon at `metrics.listen` whether it is ready. Exit 0 if it is, 1 and why if not."""
    if (address := config_of(path).metrics.address) is None:
        fail("metrics.listen is not set, so no daemon answers; set an ADDRESS:PORT", EXIT_CONFIG)
    where = f"{address[0]}:{address[1]}"
    try:
        status, text = _get(address, "/healthz" if live else "/readyz", timeout)
    except OSError as error:
        fail(f"no daemon answers at {where} (metrics.listen): {error}", EXIT_FAILED)
    except ValueError:
        fail(f"what answers at {where} (metrics.listen) is no scraperd", EXIT_FAILED)
    say(text)
    sys.exit(0 if status == _OK else EXIT_FAILED)


def _get(address: tuple[str, int], path: str, timeout: float) -> tuple[int, str]:
    """Return status and text. Raises OSError, and ValueError for what is not HTTP.

    By hand, as http.client alone takes 30 ms to be imported. The daemon closes the connection.
    """
    request = f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n"
    with socket.create_connection(address, timeout=timeout) as to:
        to.sendall(request.encode())
        data = b""
        while len(data) < LARGEST and (piece := to.recv(LARGEST)):
            data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    version, code, *_ = head.decode("latin-1").split(" ", 2)
    if not version.startswith("HTTP/1."):
        raise ValueError(version)
    return int(code), body.decode(errors="replace").strip()
