"""What `scraperd check` says of callbacks: who may ask for them, and what would not be sent.

May touch: the configuration, the permissions of the files of secrets, the report.
Must never: dial anything, or show a secret.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from scraperd.base.urls import exact
from scraperd.config.webhook_secrets import secret_files
from scraperd.fetch.guard import Guard

if TYPE_CHECKING:
    from scraperd.cli.shared.report import Report
    from scraperd.config.settings import Config


def say_callbacks(config: Config, report: Report) -> None:
    """Say which callbacks are configured, and warn of those that would end as `blocked`.

    An address that a name leads to is judged when it is dialled, and not here.
    """
    if not config.calls_back:
        return
    table, endpoints = config.callbacks, config.callback_endpoints
    urls = "obeyed" if table.allow_urls else "refused (callbacks.allow_urls)"
    sent = f"{table.concurrency} at once" if table.concurrency else "by other processes only"
    report.tell(
        f"callbacks: endpoints {', '.join(endpoints) or 'none'}; callback_url {urls}; sent {sent}",
        callbacks={
            "endpoints": [*endpoints],
            "allow_urls": table.allow_urls,
            "concurrency": table.concurrency,
        },
    )
    if table.concurrency:
        for file in secret_files(config):
            if file.stat().st_mode & stat.S_IROTH:
                report.warn(f"{file} can be read by every user of this machine")
    guard = Guard(config.fetch)
    for name, endpoint in endpoints.items():
        if why := guard.refuses(exact(endpoint.url)):
            report.warn(f"callback_endpoints.{name}.url: nothing will be sent there: {why}")
