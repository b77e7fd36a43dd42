"""`make run`: the daemon in the foreground, with a private RabbitMQ node under it.

May touch: .cache/run/ or the folder it is given, its two children: the node and the daemon.
Must never: end the node before the daemon has drained, or leave either behind.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from tests.rig import ports, process
from tests.rig.brokers.erlang import NodeError
from tests.rig.brokers.node import Node
from tests.rig.debs import DebsError

CHECKOUT = Path(__file__).resolve().parents[1]
DAEMON = [sys.executable, "-m", "scraperd", "run", "--config", "config.example.toml"]

AMQP_PORT = 5672  # AMQP's own, so that the default broker_url leads here
PAGE_PORT = 15672  # of RabbitMQ's management page
JOB = '{"url": "https://example.com/"}'

HELLO = """\
RabbitMQ answers at {url} (data in {folder}/). The daemon starts; Ctrl-C ends both.
Its management page is http://{host}:{page}/ (user guest, password guest).
To publish a job and see its result, paste into another terminal, here:

    SCRAPERD_BROKER_URL={url} .venv/bin/scraperd publish --wait https://example.com/

Other clients take the same URL, such as pika and amqp-tools:

    amqp-publish --url={url} -e scraperd.jobs -r scraperd.jobs -p -b '{job}'
    amqp-get --url={url} -q scraperd.results
"""


def port_or_other(wanted: int) -> int:
    """Return this port if it is free, else another one that is free."""
    return wanted if ports.is_free(wanted) else ports.free_port()


def private_node(folder: Path) -> tuple[Node, int]:
    """Return a node with the management plugin, and the port of its page."""
    page = port_or_other(PAGE_PORT)
    conf = {"management.tcp.ip": ports.HOST, "management.tcp.port": str(page)}
    node = Node(folder, port=port_or_other(AMQP_PORT), conf=conf)
    node.plugins = ("rabbitmq_management",)
    return node, page


def url_of(node: Node) -> str:
    """Return the node's URL, with its vhost written out.

    Some clients take a path of `/` for a vhost without a name (rabbitmq-c), others for the vhost
    `/` (pika). `/%2f` means the vhost `/` to all.
    """
    return f"{node.url}%2f"


def interrupt(*_: object) -> None:
    """Make SIGTERM end us the way Ctrl-C does."""
    raise KeyboardInterrupt


def run_daemon(node: Node) -> int:
    """Run the daemon until it ends or we are asked to; then let it drain. Return its status."""
    env = {**os.environ, "SCRAPERD_BROKER_URL": url_of(node)}
    daemon = process.spawn(DAEMON, env=env, cwd=CHECKOUT, stdout=None, stderr=None)
    try:
        return daemon.wait()
    except KeyboardInterrupt:
        print("\ndraining: the daemon finishes what is in flight (Ctrl-C again: at once)")
        daemon.terminate()
        return daemon.wait()
    finally:
        process.end(daemon, 0)


def main() -> int:
    """Start the node, then the daemon; end them the other way round."""
    signal.signal(signal.SIGTERM, interrupt)
    folder = Path(sys.argv[1]) if sys.argv[1:] else CHECKOUT / ".cache/run"
    print("starting a private RabbitMQ node", flush=True)
    try:
        node, page = private_node(folder)
        with node:
            told = {"url": url_of(node), "folder": folder, "host": ports.HOST, "page": page}
            print(HELLO.format(**told, job=JOB), flush=True)
            return run_daemon(node)
    except KeyboardInterrupt:
        return 0
    except (DebsError, NodeError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
