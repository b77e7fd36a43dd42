"""Which hosts a pattern means, and which of several patterns holds.

May touch: the one module.
Must never: resolve a name.
"""

from __future__ import annotations

import pytest

from scraperd.base.hosts import HostSet, canonical, names_of
from scraperd.base.urls import exact, host_as_dialled, host_name
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


SPELLINGS = [
    ("example.com", "EXAMPLE.com.", "\uff45xample.com", "example\u3002com"),
    (
        "exámple.com",
        "EXÁMPLE.com",
        "xn--exmple-qta.com",
        "XN--EXMPLE-QTA.COM.",
        "exa\u0301mple.com",
    ),
    ("straße.de", "xn--strae-oqa.de"),
    ("127.0.0.1", "0x7f.1", "2130706433", "127.0.0.1.", "\uff11\uff12\uff17.0.0.1", "0177.0.0.1"),
    ("[::1]", "[0:0::1]", "[::0.0.0.1]"),
    ("[::ffff:1.2.3.4]", "[::FFFF:102:304]"),
]


@pytest.mark.parametrize("spellings", SPELLINGS, ids=lambda it: it[0])
def test_a_pattern_means_the_host_that_is_dialled(spellings: tuple[str, ...]) -> None:
    """Whichever spelling a pattern and a URL have, both mean the host that browsers dial."""
    urls = [exact(f"http://{one}/") for one in spellings]
    assert len({canonical(host_name(url)) for url in urls}) == 1
    for pattern in spellings:
        table = HostTable(
            PolitenessSettings(), {pattern: HostSettings(per_host_delay=9.0)}, proxy=""
        )
        for url in urls:
            assert (url.raw_host or "") in HostSet([pattern]), (pattern, url)
            assert table.of(host_name(url)).delay == 9.0, (pattern, url)
    assert "other.example" not in HostSet(spellings)


@pytest.mark.parametrize("pattern", ["*.exámple.com", "*.EXÁMPLE.com.", "*.xn--exmple-qta.com"])
def test_a_domain_means_its_hosts_in_each_spelling(pattern: str) -> None:
    """A star before a name that is not ASCII stands for the same hosts as before its punycode."""
    found = HostSet([pattern])
    assert (exact("http://a.Exámple.com/").raw_host or "") in found
    assert "a.xn--exmple-qta.com" in found
    assert "xn--exmple-qta.com" not in found


def test_what_is_no_host_means_itself_only() -> None:
    """A text that no URL has as its host is compared as text, and raises nothing."""
    for text in ("a b", "xn--a", "[::1%eth0]", "", "*.", "[", "x" * 9000, "\ud800"):
        assert "example.com" not in HostSet([text])
        assert "example.com" not in HostSet([f"*.{text}"])


@pytest.mark.parametrize("text", ["h.de?a", "h.de/a", "h.de#", "h.de\\a", "h.de:80", "u@h.de"])
def test_a_host_with_more_than_a_host_is_none(text: str) -> None:
    """What is before or behind a host in a URL makes no other host of it."""
    assert host_as_dialled(text) is None
    assert "h.de" not in HostSet([text])


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
