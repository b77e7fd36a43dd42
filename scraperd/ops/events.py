"""The events of the log: the level, the fields and the meaning of each, and what to do. Pure.

May touch: nothing.
Must never: differ from the code, from the lines of a daemon, or from docs/operations/observe.md:
tests compare them.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from msgspec import Struct

Level: TypeAlias = Literal["debug", "info", "warning", "error"]
Type: TypeAlias = Literal[
    "text", "text or null", "integer", "number", "true or false", "list of texts"
]


class Field(Struct, frozen=True):
    """What a field holds. A name has one type and one meaning in all events."""

    type: Type
    meaning: str


class Event(Struct, frozen=True):
    """One kind of line. Texts are Markdown; their links start from docs/operations/.

    A line has all of `fields`, and can have those of `at_times`. `more_levels`: see `_level_of` in
    ops/telemetry.py.
    """

    level: Level
    meaning: str
    fields: tuple[str, ...] = ()
    at_times: tuple[str, ...] = ()
    todo: str = ""
    more_levels: tuple[Level, ...] = ()

    @property
    def levels(self) -> tuple[Level, ...]:
        """All levels that a line of this kind can have."""
        return (self.level, *self.more_levels)


FIELDS: Final[dict[str, Field]] = {
    # Of a job.
    "id": Field("text or null", "the id of the job, as far as it is known"),
    "url": Field("text or null", "the URL of the job, as `log.urls` says; null if it is missing"),
    "host": Field(
        "text or null",
        "the host of the job's URL; of `listening` and `gateway_start`, the address",
    ),
    "status": Field("text", "`ok` or `failed`, as in the result"),
    "verdict": Field("text", "what happened to the job; see [verdicts](#verdicts)"),
    "attempt": Field("integer", "which attempt this was, from 1"),
    "http_status": Field(
        "integer", "the status code of the last response; of `request`, of the answer"
    ),
    "bytes": Field("integer", "the size of the body, decompressed"),
    "kind": Field(
        "text", "the [failure kind](../contract.md#failure-kinds) of a job that did not end well"
    ),
    "next": Field("text", "what happens after a failure; see [above](#what-a-log-line-is)"),
    "retry_in": Field("number", "seconds until the job, or the publish, is tried again"),
    "turn_of": Field("text", "the host that a snoozed job waits for"),
    "turn_in": Field("number", "seconds that a snoozed job waits"),
    "strikes": Field(
        "integer", "how often the job came back, because a process or a connection ended"
    ),
    "snoozes": Field("integer", "how often the job waited in a delay queue for a turn"),
    "settled": Field("true or false", "false if the ack was lost: the job is delivered again"),
    "total": Field("number", "seconds from the start of the job to its result"),
    "wait": Field("number", "seconds for robots.txt, the host's turn, memory and a slot"),
    "fetch": Field("number", "seconds of all fetches"),
    "extract": Field("number", "seconds of the extraction"),
    "publish": Field("number", "seconds until the broker had confirmed what was published"),
    # Of more than one event.
    "error": Field("text", "what went wrong, in words"),
    "reason": Field("text", "why, in words"),
    "why": Field("text", "why, in a word or a few"),
    "exception": Field("text", "the traceback, without queries of URLs"),
    "broker": Field("text", "the address of the broker, without the password"),
    "queue": Field("text", "the queue; in `job` and `dead_letters`, without the prefix"),
    "exchange": Field("text", "the exchange; empty for the default exchange"),
    "jobs": Field(
        "integer",
        "how many jobs; of `request`, how many were published; of `dead_letters`, how many letters",
    ),
    "seconds": Field("number", "how long it took or lasted"),
    "ready": Field("integer", "how many messages of the queue wait"),
    "signal": Field("text", "the name of the signal"),
    "concurrency": Field("integer", "the value of `concurrency` that holds"),
    # Of one event.
    "version": Field("text", "the version of scraperd"),
    "worker": Field("text", "the name of the process, as in results"),
    "signing_key": Field("text", "the file of the key that signs headers, or `broker_url`"),
    "prefetch": Field("integer", "how many unacked jobs the process asks for"),
    "missing": Field("list of texts", "`landlock`, `seccomp`, or both"),
    "limit": Field("integer", "how many file descriptors the process may have"),
    "needed": Field("integer", "how many file descriptors the settings need"),
    "max_connections": Field("integer", "the value of `fetch.max_connections` that holds"),
    "setting": Field("text", "the setting that the broker's limit concerns"),
    "broker_takes": Field("number", "the limit of the broker, in bytes or seconds"),
    "unacked": Field("integer", "how many jobs the process has not acked yet"),
    "problem": Field("text", "`rejected`, `unroutable`, `forbidden` or `no exchange`"),
    "routing_key": Field("text", "the routing key of the message"),
    "moved_to": Field("text", "the queue that the message was moved to"),
    "port": Field("integer", "the port that is listened on"),
    "in_flight": Field("integer", "how many jobs are being worked on"),
    "left": Field("integer", "how many jobs did not finish in time"),
    "done": Field("integer", "how many jobs ended with a result since the start"),
    "dead": Field("integer", "how many jobs were dead-lettered since the start"),
    "changed": Field("list of texts", "settings with their values of before and of now"),
    "needs_restart": Field("list of texts", "settings that keep their values until a restart"),
    "lines": Field("integer", "how many lines were lost"),
    "spans": Field("integer", "how many spans were lost"),
    "endpoint": Field("text", "where spans are sent (`tracing.endpoint`)"),
    "tokens": Field("integer", "how many tokens the gateway knows; 0 means that none is needed"),
    "method": Field("text", "the method of an HTTP request; empty if it could not be read"),
    "path": Field(
        "text", "the path of an HTTP request, without query; a handle is shown as HANDLE"
    ),
    "callback": Field("text", "the `webhook-id` of a callback"),
    "batch": Field("text", "the id of a batch"),
    "size": Field("integer", "how many jobs a batch has, as its jobs say"),
    "counted": Field("integer", "how many jobs of a batch had an outcome, each once"),
    "batches": Field("integer", "how many batches: open ones, or those whose message waits"),
    "rules": Field("integer", "how many rules are in force"),
    "holder": Field("text", "the name of the token, or empty without a known token"),
    "action": Field(
        "text", "what an operator did by the dashboard: `requeue`, `replay` or `purge`"
    ),
    "filters": Field("text", "which dead letters were meant, as JSON"),
}

EVENTS: Final[dict[str, Event]] = {
    "start": Event(
        "info",
        "the configuration is read",
        ("version", "worker", "concurrency", "signing_key"),
    ),
    "ready": Event("info", "the daemon consumes", ("broker", "queue", "prefetch")),
    "job": Event(
        "info",
        "one delivery ended",
        ("id", "url", "host", "verdict", "attempt", "publish"),
        (
            *("status", "http_status", "bytes", "kind", "error", "next", "retry_in"),
            *("turn_of", "turn_in", "queue", "strikes", "snoozes", "settled"),
            *("total", "wait", "fetch", "extract"),
        ),
        more_levels=("warning", "debug"),
    ),
    "failures_repeated": Event(
        "warning",
        "so many further `jobs` of `host` failed with this `kind` within a minute, and had no line "
        "of their own; see [fewer lines](#fewer-lines)",
        ("host", "kind", "jobs"),
        todo="read the lines before it",
    ),
    "broker_unreachable": Event(
        "warning",
        "the broker cannot be reached. The daemon tries again with jittered backoff, and logs this "
        "every 30 s",
        ("broker", "error"),
        todo="start the broker, check the URL",
    ),
    "broker_refused": Event(
        "warning",
        "after a first good start the broker refused the credentials or a queue",
        ("broker", "error"),
        todo="undo the change on the broker",
    ),
    "queue_differs": Event(
        "warning",
        "a queue has another `x-delivery-limit` than the daemon's, the dead-lettering of an "
        "earlier version, or another length limit than the settings say. With "
        "`broker.passive_declare` also: another type or argument, or no binding. The queue is used "
        "as it is",
        ("error",),
        todo="for the delivery limit: nothing on RabbitMQ 3; on RabbitMQ 4 check `results` and "
        "`dead`. For dead-lettering: [replace the queue]"
        "(queues.md#replace-queues-of-earlier-versions). For the length limit: [set a policy]"
        "(queues.md#a-limit-for-the-jobs-queue)",
    ),
    "queue_policy": Event(
        "warning",
        "at the start: a policy of RabbitMQ does harm to queues of the daemon. `error` names the "
        "policy, the key, the queues and the harm",
        ("error",),
        todo="change the pattern of the policy; see [policies](queues.md#policies)",
    ),
    "queues_checked": Event(
        "info",
        "at the start: RabbitMQ's policies on the queues were looked at, and with "
        "`broker.passive_declare` also types, arguments and bindings",
    ),
    "queues_unchecked": Event(
        "info",
        "at the start: what `queues_checked` looks at is unknown, and `reason` says why",
        ("reason",),
        todo="set [`broker.management_api`](queues.md#policies)",
    ),
    "priority_ignored": Event(
        "warning",
        "a job has a `priority`, and this RabbitMQ has no priorities in quorum queues. Logged once",
        ("broker", "error"),
        todo="upgrade to RabbitMQ 4, or tell the publishers",
    ),
    "broker_vulnerable": Event(
        "warning",
        "at the start: one message can stop this version of RabbitMQ",
        ("broker", "error"),
        todo="upgrade RabbitMQ; until then restrict [who may publish]"
        "(queues.md#a-message-that-stops-all-retries)",
    ),
    "signature_invalid": Event(
        "warning",
        "so many `jobs` had headers of ours (attempts, turns, strikes) without a valid signature "
        "since the last such line. The jobs start as new ones. Logged once a minute at most",
        ("jobs",),
        todo="after an upgrade or a new key: nothing. If the warning continues: processes with "
        "different users on the broker need a [`jobs.signing_key_file`](queues.md#who-is-believed)"
        ". If they have one, a publisher forges headers",
    ),
    "reply_refused": Event(
        "warning",
        "a job's `reply_to` names a `queue` that may not get results. The result goes to the "
        "results queue. Logged once for each queue, for 100 queues",
        ("queue", "why"),
        todo="add the queue to `broker.allow_reply_to`, or tell the publisher. `a queue of ours` "
        "cannot be allowed",
    ),
    "log_lines_lost": Event(
        "warning",
        "what reads the log stalled, or its disk was full, and so many `lines` were lost. The "
        "daemon waits for no reader: it keeps 1 MiB of lines, and drops the others",
        ("lines",),
        todo="free the disk, or look at what reads the log (journald, a pipe)",
    ),
    "spans_lost": Event(
        "warning",
        "so many `spans` for the collector at `endpoint` were lost, and `error` says why. Jobs go "
        "on. Logged once a minute at most for each reason",
        ("spans", "endpoint", "error"),
        todo="do what `error` says; see [tracing](tracing.md#when-the-collector-fails)",
    ),
    "spans_taken": Event(
        "info",
        "the collector takes spans again, after so many `seconds`; `spans` were lost meanwhile",
        ("endpoint", "seconds", "spans"),
    ),
    "callback_delivered": Event(
        "debug",
        "a receiver answered a callback with 2xx",
        ("id", "callback", "host", "attempt", "http_status"),
    ),
    "callback_failed": Event(
        "warning",
        "an attempt of a callback failed; the next one is in `retry_in` seconds",
        ("id", "callback", "host", "attempt", "error", "retry_in"),
        todo="if it goes on: tell the owner of the receiver; see [callbacks](../callbacks.md)",
    ),
    "callback_dead": Event(
        "warning",
        "a callback is in the queue of dead callbacks. `reason` is its "
        "[reason](../callbacks.md#dead-callbacks)",
        ("id", "callback", "reason", "error"),
        todo="`scraperd callbacks list`; then `scraperd callbacks replay` or `purge`",
    ),
    "callbacks_paused": Event(
        "warning",
        "five callbacks in a row failed at `host`. For so many `seconds`, and longer after each "
        "further failure, it gets one callback now and then; the others wait in delay queues",
        ("host", "seconds"),
        todo="tell the owner of the receiver",
    ),
    "callbacks_resumed": Event(
        "info",
        "a receiver that was paused took a callback",
        ("host",),
    ),
    "callbacks_interrupted": Event(
        "warning",
        "callbacks cannot be consumed or moved, and `error` says why. The daemon tries again",
        ("error",),
        todo="look at the [queues of callbacks](queues.md#queues-of-callbacks)",
    ),
    "tally_taken": Event(
        "info",
        "this process tallies the [batches](../batches.md) from now on; it has read what the one "
        "before it knew",
        ("batches",),
    ),
    "batch_done": Event(
        "info",
        "each job of a batch has its outcome, and the message is published",
        ("batch", "size", "counted"),
    ),
    "batch_expired": Event(
        "warning",
        "a batch ended before each of its jobs had an outcome, and the message is published. "
        "`reason` names the setting",
        ("batch", "size", "counted", "reason"),
        todo="ask its dispatcher whether it published all jobs, and the size that they say",
    ),
    "batch_sizes_differ": Event(
        "warning",
        "a job says another size of its batch than jobs before it: the largest counts",
        ("batch", "size"),
        todo="tell its dispatcher",
    ),
    "batch_note_refused": Event(
        "warning",
        "a message in the queue of batches is not sealed by a key of the fleet, or cannot be read; "
        "it is dropped. The metric counts the others",
        ("bytes",),
        todo="see who may write to that queue; give all processes the same `jobs.signing_key_file`",
    ),
    "batch_message_refused": Event(
        "warning",
        "the messages about so many ended `batches` are not taken by a queue of the results "
        "exchange; they are published again every two seconds",
        ("batches",),
        todo="see whether the results queue is full",
    ),
    "batches_interrupted": Event(
        "warning",
        "the queue of batches cannot be consumed or written to, and `error` says why. The daemon "
        "tries again",
        ("error",),
        todo="look at the [queue of batches](queues.md#the-queue-of-batches)",
    ),
    "rules_changed": Event(
        "info",
        "other [rules](../control.md) are in force, so many",
        ("rules",),
    ),
    "rules_refused": Event(
        "warning",
        "the broker holds rules that are not sealed by a key of the fleet, or cannot be read; they "
        "are passed over. Logged once, and the metric counts them",
        ("bytes",),
        todo="see who may write to that stream; give all processes and those who set rules the "
        "same `jobs.signing_key_file`",
    ),
    "rules_unread": Event(
        "warning",
        "the rules in the broker cannot be read, and `error` says why. The daemon tries again, and "
        "keeps the rules that it knows",
        ("queue", "error"),
        todo="look at the [stream of rules](queues.md#the-stream-of-rules)",
    ),
    "helpers_unconfined": Event(
        "warning",
        "at the start: the kernel lacks a protection for helper processes; `missing` is "
        "`landlock` (Linux 5.13) or `seccomp`. Pages are searched without it",
        ("missing",),
        todo="use a newer kernel. In a container: a profile that allows both. For systemd-nspawn "
        'of systemd 252: `--system-call-filter="landlock_create_ruleset landlock_add_rule '
        'landlock_restrict_self"`',
    ),
    "own_addresses_unknown": Event(
        "warning",
        "at the start: the kernel does not tell by rtnetlink which addresses are this machine's "
        "own (`error`). Its public addresses are fetched from like any other",
        ("error",),
        todo="in systemd: add `AF_NETLINK` to `RestrictAddressFamilies`. Otherwise: list the "
        "addresses in `fetch.deny_networks`",
    ),
    "descriptors_few": Event(
        "warning",
        "at the start: there are fewer file descriptors than the settings `needed`. The daemon "
        "uses the lower `concurrency` and `fetch.max_connections` in this line",
        ("limit", "needed", "concurrency", "max_connections"),
        todo="raise LimitNOFILE (`ulimit -n`), or lower the settings",
    ),
    "helpers_busy": Event(
        "warning",
        "so many jobs found too many slow pages waiting for a helper process. They come again in "
        "15 to 60 seconds, in the same attempt",
        ("jobs",),
        todo="raise `sandbox.processes`, if the machine has cores. Look for rules that take long "
        "(`extract` in the log line)",
    ),
    "descriptors_exhausted": Event(
        "warning",
        "so many jobs found no free file descriptor, or no memory for a socket. They come again in "
        "some seconds, in the same attempt",
        ("jobs",),
        todo="as for `descriptors_few`. Look for other programs that take descriptors",
    ),
    "broker_limit": Event(
        "warning",
        "the broker takes no larger message, or waits no longer for an ack, than `broker_takes`. "
        "This process now keeps to that",
        ("setting", "broker_takes"),
        todo="set `jobs.max_result_size` or `broker.ack_timeout` to that value, and `jobs.timeout` "
        "to fit",
    ),
    "consumer_starved": Event(
        "warning",
        "jobs were ready and there was room, and no job came for ten seconds. The daemon registers "
        "the consumer again. The status line counts this",
        ("queue", "ready", "seconds"),
        todo="if it repeats, read the broker's log",
    ),
    "solo_begun": Event(
        "info",
        "jobs that came back more than once run one at a time. Other jobs wait meanwhile",
        ("jobs", "unacked"),
        todo="see [jobs that came back](queues.md#jobs-that-came-back)",
    ),
    "solo_ended": Event("info", "the jobs that ran one at a time have ended. Other jobs run again"),
    "solo_job": Event(
        "info",
        "a job that came back more than once starts to run, alone. If the process dies now, this "
        "is its last such line",
        ("id", "url", "host", "strikes"),
        todo="see [dead letters](dead-letters.md)",
    ),
    "broker_lost": Event(
        "warning",
        "the connection ended; `reason` says how. The daemon makes a new one, and unacked jobs "
        "come again",
        ("broker", "reason"),
        todo="nothing, unless it repeats",
    ),
    "broker_blocked": Event(
        "warning",
        "a memory or disk alarm on the broker. Publishes wait, acks flow, and no more is consumed; "
        "the status line says since when. A process with nothing to publish is not told, and works "
        "on",
        ("broker",),
        todo="free memory or disk on the broker",
    ),
    "broker_unblocked": Event("info", "the alarm on the broker is over", ("seconds",)),
    "publish_refused": Event(
        "warning",
        "`rejected`: a queue is full. `unroutable`: a queue or a binding is missing, and the "
        "daemon declares it again. `forbidden`: the user lacks a permission. `no exchange`: the "
        "exchange is missing. The jobs are kept, and publishing is tried again. The last two are "
        "logged once for each exchange, or for each routing key (100 in all)",
        ("problem", "exchange", "routing_key"),
        ("error", "retry_in"),
        todo="read the results queue; check the bindings; for `forbidden` and `no exchange`, do "
        "what `error` says",
    ),
    "publish_allowed": Event(
        "info",
        "the broker takes again what it refused for so many `seconds`",
        ("exchange", "seconds"),
    ),
    "undeliverable": Event(
        "warning",
        "RabbitMQ fails over a message of `queue` each time it delivers it, and the daemon had "
        "RabbitMQ move that message, unread, to `moved_to`",
        ("queue", "ready", "moved_to"),
        todo="find who publishes by AMQP 1.0 with [an id or a property that RabbitMQ cannot "
        "deliver](../publishing.md#amqp-10). "
        "[Remove the letter](dead-letters.md#no-command-can-read-the-dead-queue)",
    ),
    "listening": Event(
        "info", "metrics and health are served at this `host` and `port`", ("host", "port")
    ),
    "drain": Event(
        "info",
        "the daemon begins to stop; `why` is the signal, `idle` or `max_jobs`",
        ("why", "in_flight"),
    ),
    "drained": Event("info", "all jobs that were in flight have ended", ("seconds",)),
    "drain_timeout": Event(
        "warning",
        "`left` jobs did not finish in time. They go back into their queues as they came, or stay "
        "unacked if that was not confirmed either",
        ("left", "seconds"),
        todo="raise `jobs.shutdown_timeout`; the daemon asks systemd for as much time",
    ),
    "stop": Event("info", "the daemon has stopped", ("done", "dead")),
    "reloaded": Event(
        "info",
        "SIGHUP: the configuration was read again. `changed` has the settings that have another "
        "value now, and whose tokens of the gateway differ; `needs_restart` has the settings that "
        "keep their value until a restart",
        ("changed", "needs_restart"),
        todo="restart for the latter",
    ),
    "reload_failed": Event(
        "error",
        "SIGHUP: the configuration is not valid; `error` says why. Nothing has changed. The status "
        "line says so until the next reload",
        ("error",),
        todo="mend the file, reload again",
    ),
    "status_unanswered": Event(
        "warning",
        "the broker does not let the daemon declare or read its queue of questions, or with "
        "`broker.passive_declare` the exchange of questions is missing; `error` names what lacks. "
        "Jobs go on. `scraperd status` lists the process as silent. Logged once",
        ("error",),
        todo="grant what `error` says, or set `broker.answer_status = false`",
    ),
    "gateway_start": Event(
        "info",
        "`scraperd serve` takes requests at this `host` and `port`",
        ("version", "host", "port", "tokens"),
    ),
    "gateway_ready": Event(
        "info", "the gateway has reached the broker and publishes jobs", ("broker", "queue")
    ),
    "gateway_waits": Event(
        "warning",
        "the gateway has no connection to the broker, or the jobs queue does not exist. Requests "
        "with jobs get 503. The gateway tries again with jittered backoff, and logs this each time",
        ("error",),
        todo="do what `error` says: start the broker, start a daemon once, check the URL",
    ),
    "gateway_refused": Event(
        "warning",
        "the broker did not take or did not confirm a job, or the fleet could not be asked about a "
        "batch, and the request got 503. Logged every 10 s at most",
        ("error",),
        todo="do what `error` says; see [queues](queues.md)",
    ),
    "request": Event(
        "info",
        "an HTTP request to the gateway has ended. `http_status` 499: the client closed the "
        "connection before the answer. A probe that got 200 has no line",
        ("method", "path", "http_status", "seconds", "holder", "jobs"),
    ),
    "gateway_error": Event(
        "error",
        "a mistake in scraperd ended one HTTP request with 500",
        ("exception",),
        todo="report it",
    ),
    "dead_letters": Event(
        "info",
        "an operator requeued, replayed or purged `jobs` dead letters by the dashboard. `queue` is "
        "their queue without the prefix. `error` is empty, or says why that ended early",
        ("holder", "queue", "action", "filters", "jobs", "error"),
        todo="with an `error`: do what it says, and do the rest again",
    ),
    "gateway_drain": Event(
        "info",
        "the gateway begins to stop: it takes no new connection, and answers the requests that it "
        "has read",
        ("signal", "in_flight"),
    ),
    "gateway_stop": Event(
        "info",
        "the gateway has stopped. `left` requests were not answered in time",
        ("left", "seconds"),
    ),
    "signal_ignored": Event(
        "info",
        "SIGUSR1 or SIGUSR2 has no effect; `signal` says which came",
        ("signal",),
        todo="look at what sends it",
    ),
    "second_signal": Event("warning", "a second signal ended the process at once", ("signal",)),
    "internal_error": Event(
        "error",
        "a mistake in scraperd met one job",
        ("id", "exception"),
        todo="report it",
    ),
    "died": Event(
        "error", "a mistake in scraperd ended the process", ("exception",), todo="report it"
    ),
    "config": Event(
        "error",
        "the daemon cannot start with this configuration; exit code 78",
        ("error",),
        todo="do what the message says",
    ),
}
