"""What schemathesis has to know to send a job a line: a text is sent as it is.

May touch: schemathesis, which loads this file (SCHEMATHESIS_HOOKS).
Must never: change what is sent.
"""

from __future__ import annotations

from typing import Any

import schemathesis


@schemathesis.serializer("application/x-ndjson", "application/jsonl")
def as_it_is(_context: Any, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode(errors="replace")
