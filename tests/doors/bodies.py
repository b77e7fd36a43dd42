"""Jobs in each form of a body that AMQP 1.0 has, sent by Qpid Proton; prints the results as JSON.

May touch: the broker that it is given; Qpid Proton of Debian.
Must never: be imported: it is run by Debian's Python, and knows nothing of scraperd.
"""

import json
import sys

from proton import Message
from proton.utils import BlockingConnection


def main(broker_url: str, jobs: str, replies: str, page: str) -> None:
    """Send a job in each form to one address, and read as many results from another."""
    connection = BlockingConnection(broker_url, timeout=30, allowed_mechs="PLAIN")
    receiver = connection.create_receiver(replies, credit=10)
    sender = connection.create_sender(jobs)
    for kind in ("string", "binary", "data", "map", "sequence"):
        job = {"url": page + kind, "id": kind}
        text = json.dumps(job)
        bodies = {"string": text, "map": job, "sequence": [text]}
        message = Message(
            bodies.get(kind, text.encode()),
            inferred=kind in {"data", "sequence"},
            correlation_id=kind,
            content_type="application/json",
            reply_to=replies,
            properties={"own": "text"},
        )
        sender.send(message)
    found = []
    for _ in range(5):
        result = receiver.receive(timeout=30)
        receiver.accept()
        found.append(
            {
                "correlation_id": result.correlation_id,
                "content_type": result.content_type,
                "properties": {
                    str(name): str(value) for name, value in (result.properties or {}).items()
                },
                "annotations": {
                    str(name): str(value) for name, value in (result.annotations or {}).items()
                },
                "reply_to": result.reply_to,
                "subject": result.subject,
                "body": json.loads(result.body),
            }
        )
    print(json.dumps(found))
    connection.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
