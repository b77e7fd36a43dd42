"""Sites that want to hurt who fetches from them: bombs, drips, floods, silence; one path each.

May touch: listening sockets on loopback addresses, the bombs in .cache/, its own priority.
Must never: be measured as part of the daemon, or send faster than it says.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

import brotli  # type: ignore[import-untyped]
import uvloop

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter
    from collections.abc import Awaitable, Callable, Iterator

HOSTS: Final = [f"127.0.9.{n}" for n in range(1, 51)]
ROBOTS_HOSTS: Final = [f"127.0.10.{n}" for n in range(1, 51)]  # whose robots.txt is asked for
BOMB: Final = 10 * 1024**3  # bytes that each bomb stands for
WHOLE: Final = 10 * 1024**2  # bytes of /whole: fetch.download_maxsize
CACHE: Final = Path(__file__).resolve().parents[1] / ".cache" / "bombs"
NICE: Final = 10  # so that a flood does not take the daemon's processor from it
PACE: Final = 0.05  # seconds between two pieces of a drip
_PIECE: Final = 64 * 1024**2
_HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"
_CHUNKED: Final = _HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def bomb(coding: str) -> bytes:
    """10 GiB of zeros in a coding; made once, then read from the cache."""
    file = CACHE / coding.replace(", ", "-")
    if not file.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.write_bytes(b"".join(_MAKERS[coding]()))
        part.rename(file)
    return file.read_bytes()


def _gzip() -> Iterator[bytes]:
    """After a full flush the same zeros become the same bytes. Nobody reads as far as the CRC."""
    stream = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    piece = stream.compress(bytes(_PIECE)) + stream.flush(zlib.Z_FULL_FLUSH)
    yield b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
    for _ in range(BOMB // _PIECE):
        yield piece


def _gzip_gzip() -> Iterator[bytes]:
    stream = zlib.compressobj(9, wbits=16 + zlib.MAX_WBITS)
    yield stream.compress(bomb("gzip")) + stream.flush()


def _br() -> Iterator[bytes]:
    stream = brotli.Compressor(quality=5, lgwin=24)
    for _ in range(BOMB // _PIECE):
        yield stream.process(bytes(_PIECE))
    yield stream.finish()


def _zstd() -> Iterator[bytes]:
    stream = zstd.ZstdCompressor()
    for _ in range(BOMB // _PIECE):
        yield stream.compress(bytes(_PIECE))
    yield stream.flush()


_MAKERS: Final[dict[str, Callable[[], Iterator[bytes]]]] = {
    "gzip": _gzip,
    "br": _br,
    "zstd": _zstd,
    "gzip, gzip": _gzip_gzip,
}


async def _send(writer: StreamWriter, data: bytes) -> None:
    if writer.is_closing():
        raise ConnectionResetError
    writer.write(data)
    await writer.drain()


def _drip(start: bytes, piece: bytes) -> Callable[[StreamWriter], Awaitable[None]]:
    """`start`, then `piece` for ever, one every PACE seconds."""

    async def answer(writer: StreamWriter) -> None:
        await _send(writer, start)
        while True:
            await asyncio.sleep(PACE)
            await _send(writer, piece)

    return answer


def _explode(coding: str) -> Callable[[StreamWriter], Awaitable[None]]:
    data = bomb(coding)
    head = _HEAD + f"Content-Encoding: {coding}\r\nConnection: close\r\n\r\n".encode()

    async def answer(writer: StreamWriter) -> None:
        await _send(writer, head)
        for start in range(0, len(data), 65536):
            await _send(writer, data[start : start + 65536])

    return answer


async def _flood(writer: StreamWriter) -> None:
    """As fast as it is read."""
    await _send(writer, _HEAD + b"Connection: close\r\n\r\n")
    while True:
        await _send(writer, _ZEROS)


async def _whole(writer: StreamWriter) -> None:
    await _send(writer, _HEAD + b"Content-Length: %d\r\n\r\n" % WHOLE)
    for _ in range(WHOLE // len(_ZEROS)):
        await _send(writer, _ZEROS)


def _redirect(target: str) -> Callable[[StreamWriter], Awaitable[None]]:
    head = f"HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n"

    async def answer(writer: StreamWriter) -> None:
        await _send(writer, head.encode())

    return answer


async def _bytewise(writer: StreamWriter) -> None:
    """A response that never ends, every byte in a segment of its own, at five times the PACE."""
    for byte in _CHUNKED:
        await _send(writer, bytes([byte]))
        await asyncio.sleep(PACE / 5)
    while True:
        for byte in b"1\r\nx\r\n":
            await _send(writer, bytes([byte]))
            await asyncio.sleep(PACE / 5)


_ZEROS: Final = bytes(65536)
_LINE: Final = b"User-agent: *\nDisallow: /x\n"

# Those that never end, at a pace so that they stay until the timeout.
SLOW: Final = {
    "header-drip": "a byte of a header, 20 times a second",
    "endless-1xx": "103 Early Hints, 20 times a second",
    "body-drip": "a chunk of a byte, 20 times a second",
    "chunk-extension": "an endless chunk extension, 160 kB/s",
    "endless-body": "160 kB/s",
    "robots": "a robots.txt that never ends, 540 B/s",
    "bytewise": "segments of one byte, 100 a second",
    "tls": "no answer to the ClientHello",
}


def _answers() -> dict[str, Callable[[StreamWriter], Awaitable[None]]]:
    eight = 8192
    return {
        **{f"/bomb/{coding.replace(', ', '-')}": _explode(coding) for coding in _MAKERS},
        "/flood": _flood,
        "/whole": _whole,
        "/header-drip": _drip(_HEAD + b"X-Endless: ", b"x"),
        "/endless-1xx": _drip(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
        "/body-drip": _drip(_CHUNKED, b"1\r\nx\r\n"),
        "/chunk-extension": _drip(_CHUNKED + b"1;", b"x" * eight),
        "/endless-body": _drip(_CHUNKED, b"2000\r\n%s\r\n" % (b"x" * eight)),
        "/robots.txt": _drip(_HEAD.replace(b"html", b"plain") + b"\r\n", _LINE),
        "/bytewise": _bytewise,
    }


async def serve(port: int) -> None:
    """Listen on every one of the hosts until the process is ended."""
    answers = _answers()

    async def meet(reader: StreamReader, writer: StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            first = await reader.readexactly(1)
            if first == b"\x16":  # a TLS record of the handshake
                while await reader.read(65536):
                    pass
            while not writer.is_closing():
                request = await reader.readuntil(b"\r\n\r\n")
                path = request.split(b" ")[1].decode()
                to = path.removeprefix("/to/")
                await (answers[path] if to == path else _redirect(to))(writer)
                first = await reader.readexactly(1)
        writer.transport.abort()

    server = await asyncio.start_server(meet, HOSTS + ROBOTS_HOSTS, port, backlog=1024)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    os.nice(NICE)
    uvloop.run(serve(int(sys.argv[1])))
