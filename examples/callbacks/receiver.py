"""A receiver of callbacks: it checks the signature, drops repetitions, and answers at once.

May touch: its port on loopback; behind a reverse proxy with TLS it is reached by https.
Must never: read a body whose signature is not valid.

Run it with the secret of the endpoint, and a port; it prints a line for each new callback:

    pip install standardwebhooks
    SECRET=whsec_... python receiver.py 8000
"""

from __future__ import annotations

import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

MAX_BODY = 1024 * 1024  # bytes; callbacks.max_payload is 256 KiB by default
WEBHOOK = Webhook(os.environ["SECRET"])
SEEN: set[str] = set()  # keep it in your database, with what you did


class Receiver(BaseHTTPRequestHandler):
    """Answers POST with 204, or with 400 if the signature is not valid."""

    def do_POST(self) -> None:
        """Take one callback."""
        size = int(self.headers.get("Content-Length", 0))
        if size > MAX_BODY:
            self.send_error(413)
            return
        body = self.rfile.read(size)
        try:
            event = WEBHOOK.verify(body, dict(self.headers))  # over the bytes as they came
        except (WebhookVerificationError, ValueError):
            self.send_error(400)
            return
        ident = self.headers["webhook-id"]
        if ident not in SEEN:
            SEEN.add(ident)
            result = event["data"]
            print(ident, result["id"], result["status"], flush=True)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Write no line for each request."""


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver)
    print("listening on port", server.server_port, flush=True)
    server.serve_forever()
