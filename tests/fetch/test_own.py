"""Tests of what the kernel says of addresses, and of what holds where it says nothing.

May touch: the kernel's routes, to read; children that give up their rights or their descriptors.
Must never: change an address or a route.
"""

from __future__ import annotations

import subprocess
import sys
from ipaddress import ip_address

import pytest

from scraperd.fetch.own import is_own, lacking, question
from tests.rig.checks.house import CHECKOUT


@pytest.mark.parametrize(
    ("address", "own"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("93.184.216.34", False), ("2606::1", False)],
)
def test_the_kernel_knows_its_own(address: str, own: bool) -> None:  # noqa: FBT001
    """Also where there is no way to an address, as for IPv6 on many machines."""
    assert is_own(question(ip_address(address))) is own
    assert lacking() == ""


def child(script: str) -> str:
    argv = [sys.executable, "-W", "error", "-c", script]
    return subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout


def test_where_the_kernel_can_not_be_asked_sites_are_fetched_all_the_same() -> None:
    """A process that may open no socket says why; the guard admits what the settings admit."""
    said = child("""
from scraperd.config.tables import FetchSettings
from scraperd.fetch import own
from scraperd.sandbox import confine
from scraperd.fetch.guard import Guard
confine.confine()
guard = Guard(FetchSettings())
print(bool(own.lacking()), guard.admits("93.184.216.34"), guard.admits("::1"))
""")
    assert said.split() == ["True", "True", "False"]


def test_without_a_descriptor_nothing_is_dialled() -> None:
    """What can't be asked now is no permission: the dial fails as it does for its own socket."""
    said = child("""
import errno, resource, socket
from scraperd.config.tables import FetchSettings
from scraperd.fetch.guard import Guard
guard = Guard(FetchSettings())
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
try:
    guard.socket((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34", 80)))
except OSError as error:
    print(errno.errorcode[error.errno])
""")
    assert said.split() == ["EMFILE"]
