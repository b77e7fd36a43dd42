"""Which hosts a pattern means, and which of several patterns holds.

May touch: the one module.
Must never: resolve a name.
"""

from __future__ import annotations

import pytest

from scraperd.base.hosts import HostSet, names_of
from scraperd.config.tables import HostSettings, PolitenessSettings
from scraperd.politeness.host_rules import HostRules, HostTable


@pytest.mark.parametrize(
    ("pattern", "host", "meant"),
    [
        ("example.com", "example.com", True),
        ("example.com", "EXAMPLE.com.", True),
        ("example.com", "www.example.com", False),
        ("example.com", "badexample.com", False),
        ("*.example.com", "www.example.com", True),
        ("*.example.com", "a.b.example.com", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", "badexample.com", False),
        ("*", "anything.at.all", True),
        ("*", "::1", True),
        ("::1", "::1", True),
        ("[::1]", "::1", True),
        ("2606:0:0::1", "2606::1", True),
        ("127.0.0.1", "127.0.0.1", True),
        ("*.0.0.1", "127.0.0.1", True),
    ],
)
def test_what_a_pattern_means(pattern: str, host: str, meant: bool) -> None:  # noqa: FBT001 - a column
    """A host itself, or with a star all hosts below a domain but not the domain's own name."""
    assert (host in HostSet([pattern])) is meant


def test_an_empty_set_means_nobody() -> None:
    """And says so, which tells 'nobody' from 'no such setting'."""
    assert not HostSet([])
    assert "x" not in HostSet([])


def test_the_most_specific_pattern_holds_for_each_setting_by_itself() -> None:
    """A host's own value, else its domain's, else everyone's, else the setting's."""
    table = HostTable(
        PolitenessSettings(per_host_concurrency=8),
        {
            "*": HostSettings(per_host_delay=9.0),
            "*.example.com": HostSettings(per_host_delay=2.0, robotstxt_obey=False),
            "www.example.com": HostSettings(per_host_concurrency=1, proxy=""),
        },
        proxy="p",
    )
    assert table.of("www.example.com") == HostRules(1, 2.0, obey_robots=False, proxy="")
    assert table.of("a.www.example.com") == HostRules(8, 2.0, obey_robots=False, proxy="p")
    assert table.of("example.com") == HostRules(8, 9.0, obey_robots=True, proxy="p")


def test_names_go_from_the_most_specific_to_all() -> None:
    """The order in which patterns are tried."""
    names = ["a.b.example.com", "*.b.example.com", "*.example.com", "*.com", "*"]
    assert list(names_of("A.b.Example.com.")) == names
