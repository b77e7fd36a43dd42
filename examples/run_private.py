"""`make run`: the daemon in the foreground, with a private RabbitMQ node under it.

May touch: .cache/run/ in the checkout, its two children: the node and the daemon.
Must never: end the node before the daemon has drained, or leave either behind.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from tests.rig import process
from tests.rig.brokers.erlang import NodeError
from tests.rig.brokers.node import Node
from tests.rig.debs import DebsError

CHECKOUT = Path(__file__).resolve().parents[1]
DAEMON = [sys.executable, "-m", "scraperd", "run", "--config", "config.example.toml"]

HELLO = """\
RabbitMQ answers at {url} (data in .cache/run/). The daemon starts; Ctrl-C ends both.
To publish a job and see its result, paste into another terminal, here:

    SCRAPERD_BROKER_URL={url} .venv/bin/scraperd publish --wait https://example.com/
"""


def interrupt(*_: object) -> None:
    """Make SIGTERM end us the way Ctrl-C does."""
    raise KeyboardInterrupt


def run_daemon(node: Node) -> int:
    """Run the daemon until it ends or we are asked to; then let it drain. Return its status."""
    env = {**os.environ, "SCRAPERD_BROKER_URL": node.url}
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
    print("starting a private RabbitMQ node", flush=True)
    try:
        with Node(CHECKOUT / ".cache/run") as node:
            print(HELLO.format(url=node.url), flush=True)
            return run_daemon(node)
    except KeyboardInterrupt:
        return 0
    except (DebsError, NodeError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
