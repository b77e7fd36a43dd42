"""The events of the log, each with its level. docs/operations/observe.md says more of each. Pure.

May touch: nothing.
Must never: lack an event that the daemon logs: a test compares this with the code and the table.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

Level: TypeAlias = Literal["debug", "info", "warning", "error"]

JOB_LEVELS: Final[tuple[Level, ...]] = ("info", "warning", "debug")
"""The levels of a job's line: see `_level_of` in ops/telemetry.py."""

EVENTS: Final[dict[str, Level]] = {
    "start": "info",
    "ready": "info",
    "broker_unreachable": "warning",
    "broker_refused": "warning",
    "queue_differs": "warning",
    "queue_policy": "warning",
    "queues_checked": "info",
    "queues_unchecked": "info",
    "priority_ignored": "warning",
    "broker_vulnerable": "warning",
    "signature_invalid": "warning",
    "status_unanswered": "warning",
    "reply_refused": "warning",
    "log_lines_lost": "warning",
    "spans_lost": "warning",
    "spans_taken": "info",
    "helpers_unconfined": "warning",
    "own_addresses_unknown": "warning",
    "descriptors_few": "warning",
    "helpers_busy": "warning",
    "descriptors_exhausted": "warning",
    "broker_limit": "warning",
    "consumer_starved": "warning",
    "solo_begun": "info",
    "solo_ended": "info",
    "solo_job": "info",
    "broker_lost": "warning",
    "broker_blocked": "warning",
    "broker_unblocked": "info",
    "publish_refused": "warning",
    "publish_allowed": "info",
    "undeliverable": "warning",
    "listening": "info",
    "drain": "info",
    "drained": "info",
    "stop": "info",
    "drain_timeout": "warning",
    "reloaded": "info",
    "reload_failed": "error",
    "signal_ignored": "info",
    "second_signal": "warning",
    "internal_error": "error",
    "died": "error",
    "config": "error",
    "failures_repeated": "warning",
}
