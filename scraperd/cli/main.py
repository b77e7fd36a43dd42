"""The command `scraperd`: which commands there are. Each one's file is imported when it is called.

May touch: the version, the kinds of commands.
Must never: import a command, or what takes long: `--help` and `--version` answer at once.
"""

from __future__ import annotations

import click

from scraperd import __version__
from scraperd.cli.console import epilog
from scraperd.cli.shared.commands import Commands, Lazy


@click.group(
    cls=Commands,
    epilog=epilog(
        """scraperd scrape https://example.com/ --extract '{"title": "h1"}'""",
        "scraperd check",
        "scraperd publish https://example.com/ --wait",
    ),
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="scraperd")
def main() -> None:
    """Scrape jobs from a RabbitMQ queue, many at once, and publish the results."""


for _name, _line in {
    "run": "Run the daemon.",
    "check": "Check the configuration, the broker and its queues.",
    "serve": "Run the gateway, which takes jobs over HTTP.",
    "batch": "Scrape the URLs or jobs in a file, without a broker.",
    "scrape": "Scrape one page without a broker, from a URL or a file.",
    "publish": "Publish jobs, and with --wait print their results.",
    "results": "Print results: copies of new ones, or the queue's own.",
    "schema": "Print a JSON Schema, or an example configuration.",
    "health": "Ask the daemon on this machine whether it is ready.",
    "completion": "Print the completion for bash, zsh or fish.",
}.items():
    main.add_command(Lazy(_name, f"scraperd.cli.{_name}", _line))
for _name, _line in {
    "status": "Show all daemons, the queues, and the hosts that wait.",
    "host": "Show what each daemon knows of a host.",
    "top": "Show the same as status, live.",
    "batches": "Show how far batches of jobs are.",
}.items():
    main.add_command(Lazy(_name, f"scraperd.cli.fleet.{_name}", _line))
for _name, _file, _line in (
    ("cancel", "cancel", "End jobs wherever they are, by id, batch, host or meta."),
    ("pause", "pause", "Put jobs off, by id, batch, host or meta."),
    ("resume", "resume", "End a pause."),
    ("limit", "limit", "Set a host's concurrency and delay in all processes."),
    ("rules", "list", "List the rules in force, or remove them."),
):
    main.add_command(Lazy(_name, f"scraperd.cli.rules.{_file}", _line))
main.add_command(
    Lazy(
        "callbacks",
        "scraperd.cli.callbacks.group",
        "List dead callbacks, replay them, remove them.",
    )
)
main.add_command(
    Lazy("dead", "scraperd.cli.dead.group", "List dead letters, requeue them, remove them.")
)
