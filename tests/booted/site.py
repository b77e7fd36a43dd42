"""The site of a booted machine, with a page that takes seconds; and what is asked of the daemon.

May touch: the machine's nginx, the `scraperd` command in it.
Must never: know how the machine is booted.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tests.booted.machine import Machine

PAGE: Final = "http://127.0.0.1/page.html"
SLOW: Final = "http://127.0.0.1/slow/page.html"  # 6 s
_NGINX: Final = """
server {
    listen 127.0.0.1:80 default_server;
    root /srv/site;
    keepalive_timeout 0;  # an open connection is a page in flight
    gzip off;
    location /slow/ { limit_rate 1000; }
}
"""


def serve_pages(machine: Machine) -> None:
    """Let nginx serve the two pages."""
    page = "<html><head><title>A page</title></head><body><h1>Hello</h1>{}</body></html>\n"
    machine.write("/srv/site/page.html", page.format(""))
    machine.write("/srv/site/slow/page.html", page.format("x" * 6000))
    machine.write("/etc/nginx/sites-enabled/default", _NGINX)
    machine.run("systemctl restart nginx")


def scrape(machine: Machine, *urls: str) -> list[dict[str, Any]]:
    """Publish jobs as an operator does, and return their results."""
    shown = machine.run(f"scraperd publish --wait --wait-timeout 60 {' '.join(urls)} 2>/dev/null")
    return [json.loads(line) for line in shown.splitlines()]


def publish_slow(machine: Machine) -> None:
    """Publish the slow page, and return once it is being fetched."""
    machine.run("scraperd results --consume --idle 0.5 > /dev/null")  # none is left in the queue
    machine.run(f"scraperd publish {SLOW}")
    machine.until("ss -Htn state established dport = :80 | grep .")


def results(machine: Machine, count: int = 1) -> list[dict[str, Any]]:
    """Take results off their queue."""
    shown = machine.run(f"scraperd results --consume --count {count} --idle 60 2>/dev/null")
    return [json.loads(line) for line in shown.splitlines()]


def journal(machine: Machine, unit: str = "scraperd") -> str:
    """What the journal has of a unit."""
    return machine.run(f"journalctl -u '{unit}' -o cat --no-pager")


def say(*lines: str) -> None:
    """Print what a test saw; `make test-systemd` shows it."""
    print("".join(f"\n    {line}" for text in lines for line in text.strip().splitlines()))
