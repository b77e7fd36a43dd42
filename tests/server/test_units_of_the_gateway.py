"""The gateway's parts by themselves: tokens, lines, kept results, keys, hosts.

May touch: the functions and classes of the room.
Must never: start a process.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest

from scraperd.config.tables import HttpSettings
from scraperd.jobs.callback.allowed import NONE
from scraperd.server.access.hosts import is_own_host
from scraperd.server.access.leave import Leave
from scraperd.server.held import Held
from scraperd.server.idempotency import Kept, Keys, Outcome, key_of
from scraperd.server.posting import Poster, Report
from scraperd.server.problems import Problem
from scraperd.server.submission import Checker, Overlong, lines
from scraperd.server.tokens import ROLES, TokensError, read_tokens

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

TOKEN = "0123456789abcdef"


class Clock:
    """A clock that stands until it is set."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "it has no token"),
        ("# shop submit x\n", "it has no token"),
        ("shop submit", "line 1: write NAME ROLE TOKEN"),
        (f"\nshop boss {TOKEN}", "line 2: the role boss is not one of read, submit, admin"),
        ("shop submit short", "line 1: a token has at least 16 characters"),
        (f"shop submit {TOKEN}é", "line 1: a token has at least 16 characters"),
        (f"shop submit {TOKEN} 0", "line 1: requests a second are a number from 0.001"),
        (f"shop submit {TOKEN} nan", "line 1: requests a second are a number from 0.001"),
        (f"a submit {TOKEN}\na read {TOKEN}x", "a name is given to more than one token"),
        (f"a submit {TOKEN}\nb read {TOKEN}", "a token is given to more than one name"),
    ],
)
def test_a_wrong_file_of_tokens_is_told_by_its_line(text: str, fault: str) -> None:
    """The message says what is wrong and where, and shows no token."""
    with pytest.raises(TokensError) as error:
        read_tokens(text, Clock())
    assert str(error.value).startswith(fault)
    assert TOKEN not in str(error.value)


def test_a_rate_lets_a_burst_of_a_second_through() -> None:
    """At two a second: two at once, then one each half second; it says how long to wait."""
    clock = Clock()
    tokens = read_tokens(f"shop submit {TOKEN} 2", clock)
    holder = tokens.holder(f"Bearer {TOKEN}")
    assert holder is not None
    assert [tokens.wait(holder) for _ in range(3)] == [0, 0, 0.5]
    clock.now += 0.5
    assert [tokens.wait(holder) for _ in range(2)] == [0, 0.5]
    assert tokens.holder(TOKEN) is None


def test_each_role_may_do_what_those_before_it_may() -> None:
    """`read` reads, `submit` submits too, and `admin` does all."""
    text = "".join(f"{role} {role} {TOKEN}{role}\n" for role in ROLES)
    tokens = read_tokens(text, Clock())
    found = {role: tokens.holder(f"Bearer {TOKEN}{role}") for role in ROLES}
    allowed = {
        role: [it for it in ROLES if holder and holder.may(it)] for role, holder in found.items()
    }
    assert allowed == {
        "read": ["read"],
        "submit": ["read", "submit"],
        "admin": ["read", "submit", "admin"],
    }


async def _cut(data: bytes, sizes: random.Random) -> AsyncIterator[bytes]:
    while data:
        size = sizes.randint(1, 5)
        yield data[:size]
        data = data[size:]


async def test_lines_are_the_same_however_the_body_comes_in() -> None:
    """By pieces of any size; a line that is too long is told, and those behind it are whole."""
    data = b"one\r\n\n" + b"x" * 11 + b"\ntwo\n" + b"y" * 50 + b"\n1234567890\r\nlast"
    for seed in range(50):
        found = [it async for it in lines(_cut(data, random.Random(seed)), 10)]
        shown = ["long" if isinstance(it, Overlong) else it.decode() for it in found]
        # One byte over may be a carriage return; the check of the job knows.
        assert shown == ["one", "", "x" * 11, "two", "long", "1234567890", "last"]


async def test_bad_lines_leave_others_their_turns() -> None:
    """While 1,000 bad lines of one piece are checked, the loop turns as often."""
    nobody: Any = None  # no line comes as far as these
    poster = Poster(HttpSettings(), Checker(1000, (), NONE, nobody), nobody, nobody, nobody)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async def body() -> AsyncGenerator[bytes]:
        yield b"[]\n" * 1000

    report, other = Report(), asyncio.create_task(count())
    await poster._lines(body(), "", report, set(), Leave())
    other.cancel()
    assert len(report.rejected) == 1000
    assert turns >= 999


def body_of(held: Held, handle: str) -> bytes | None:
    """The result under a handle."""
    entry = held.get(handle)
    return entry and entry.body


async def test_kept_results_have_bounds() -> None:
    """Of number, of bytes and of time. Results that were read go first, then the oldest."""
    clock = Clock()
    held = Held(3, 10, 60, clock)
    a, b, c = (held.expect(name) or "" for name in "abc")
    assert held.expect("d") is None  # all are pending
    held.take(a, b"123456")
    held.take(a, b"a second one")
    held.take(b, b"7890")
    assert [body_of(held, it) for it in (b, a, c)] == [b"7890", b"123456", None]
    held.note_read(b)
    held.note_read(a)
    held.take(c, b"x")
    assert [body_of(held, it) for it in (a, b, c)] == [b"123456", None, b"x"]
    assert held.expect("d")
    assert held.expect("e")
    assert [held.get(it) for it in (a, b)] == [None] * 2
    clock.now += 60
    held.take(c, b"late")
    assert held.get(c) is None
    assert all(held.expect(name) for name in "fgh")
    held.take("unknown", b"x")


async def test_no_token_takes_all_places() -> None:
    """One takes four fifths of them, others find some, and each loses its own results first."""
    held = Held(10, 100, 60, Clock())
    greedy = [held.expect("a", "greedy") or "" for _ in range(10)]
    assert [bool(it) for it in greedy] == [True] * 8 + [False] * 2
    modest = held.expect("b", "modest") or ""
    assert modest
    held.take(modest, b"x" * 20)
    for handle in greedy[:8]:
        held.take(handle, b"y" * 15)
    assert [body_of(held, it) is None for it in greedy[:4]] == [True, True, True, False]
    more = [held.expect("a", "greedy") or "" for _ in range(9)]
    assert [bool(it) for it in more] == [True] * 8 + [False]
    assert body_of(held, modest) == b"x" * 20
    assert held.counts == (8, 2, 35)
    held.drop(more[0])
    assert held.counts == (7, 2, 35)


async def test_a_result_that_is_too_large_by_itself_is_kept_until_the_next() -> None:
    """Who waits for it gets it."""
    held = Held(3, 10, 60, Clock())
    a, b = held.expect("a") or "", held.expect("b") or ""
    held.take(a, b"x" * 11)
    assert body_of(held, a) == b"x" * 11
    held.take(b, b"y")
    assert (body_of(held, a), body_of(held, b)) == (None, b"y")


async def test_who_waits_is_told_that_a_result_is_lost() -> None:
    """A wait ends at once when the queue of results is gone."""
    held = Held(3, 10, 60, Clock())
    entry = held.get(held.expect("a") or "")
    assert entry is not None
    waiting = asyncio.ensure_future(held.wait(entry, 3600))
    await asyncio.sleep(0)
    held.lose()
    await waiting
    assert (entry.pending, entry.body) == (False, None)
    assert len([held.expect(name) for name in "bcd"]) == 3  # it takes no place


def test_keys_are_kept_for_their_window() -> None:
    """One that is over or pushed out is new again; one that is claimed is refused."""
    clock = Clock()
    keys = Keys(2, 60, clock)
    kept = Kept(b"digest", Outcome(202, b"{}", 1))
    with keys.claimed(("shop", "a")) as found:
        assert found is None
        with pytest.raises(Problem) as error, keys.claimed(("shop", "a")):
            pass
        assert error.value.status == 409
        keys.keep(("shop", "a"), kept)
    with keys.claimed(("shop", "a")) as found:
        assert found is kept
    clock.now += 60
    with keys.claimed(("shop", "a")) as found:
        assert found is None
    for name in "bcd":
        keys.keep(("shop", name), kept)
    with keys.claimed(("shop", "b")) as found:
        assert found is None


@pytest.mark.parametrize(
    ("values", "key"),
    [([], None), (['"a b"'], "a b"), (["a-b"], "a-b"), ([r'"a\"b"'], r"a\"b")],
)
def test_a_key_is_a_text(values: list[str], key: str | None) -> None:
    """In double quotes, as the draft has it, or bare."""
    assert key_of(values) == key


@pytest.mark.parametrize("values", [[""], ['""'], ['"a'], ["a b"], ["a", "b"], ["x" * 256], ["é"]])
def test_what_is_not_a_key_is_refused(values: list[str]) -> None:
    """With 400."""
    with pytest.raises(Problem) as error:
        key_of(values)
    assert error.value.status == 400


@pytest.mark.parametrize(
    ("host", "own"),
    [
        *((host, True) for host in ("localhost", "LOCALHOST:80", "127.0.0.1:8080", "[::1]:1")),
        *((host, False) for host in ("", "evil.example", "localhost.evil.example", "10.0.0.1")),
        *((host, False) for host in ("127.0.0.1.evil.example:80", "[::1", "localhost:x", "::1")),
    ],
)
def test_which_hosts_mean_this_machine(host: str, *, own: bool) -> None:
    """Loopback addresses and localhost, with any port."""
    assert is_own_host(host) is own
