"""What a policy does to our queues, and how a queue differs from what it must be, in words. Pure.

May touch: answers of the management API, which are untrusted values.
Must never: raise over an answer, or ask for anything.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from scraperd.base.text import printable
from scraperd.broker.rabbitmq.topology import difference

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from scraperd.broker.rabbitmq.topology import Queue, Topology

MAX_NAMED: Final = 3  # queues that a line names
_REJECT: Final = "reject-publish"
_TTL: Final = "message-ttl"
_LENGTHS: Final = ("max-length", "max-length-bytes")
_LIMIT: Final = "delivery-limit"
_TYPE: Final = "x-queue-type"
_ABSENT: Final = "nothing"


def policies(topology: Topology, found: Mapping[str, Any]) -> list[str]:
    """What policies do to the queues that were `found`: a line for each policy, key and harm."""
    lines: dict[tuple[str, str, str, str], list[str]] = {}
    for queue in topology.queues:
        answer = _dict(found.get(queue.name))
        effective = _dict(answer.get("effective_policy_definition"))
        for key, value in effective.items():
            if harm := _harm(topology, queue, key, value):
                which = (_named(answer), key, _shown(value), harm)
                lines.setdefault(which, []).append(queue.name)
    ours = f"^(?!{re.escape(topology.prefix)}[.])"
    return [
        f"{policy} sets {key} = {value} for {_listed(names)}: {harm}. Let its pattern leave these "
        f"queues out, such as {ours!r}, or give the queues another policy of a higher priority."
        for (policy, key, value, harm), names in lines.items()
    ]


def _harm(topology: Topology, queue: Queue, key: str, value: Any) -> str:
    """What a key of a policy does to a queue; empty if it does no harm."""
    if key == "expires":
        return "RabbitMQ deletes a queue that has no consumers for that time, with its messages"
    if key == "overflow" and value != _REJECT:
        return "RabbitMQ drops messages when the queue is full, instead of refusing them"
    if key == _TTL and type(value) is int:
        return _harm_of_ttl(topology, queue, value)
    if key in _LENGTHS:
        return _harm_of_length(topology, queue)
    limit = queue.arguments.get(f"x-{_LIMIT}")
    if key == _LIMIT and type(value) is int and limit is not None and 0 <= value < limit:
        kept = queue.name in (topology.results, topology.dead)
        end = "drops a message" if kept else "gives a job up"
        return f"RabbitMQ {end} that comes back that often"
    return ""


def _harm_of_ttl(topology: Topology, queue: Queue, value: int) -> str:
    if queue.name in topology.delays:
        own = queue.arguments["x-message-ttl"]
        return "jobs come back before their time" if value < own else ""
    if queue.name in (topology.results, topology.dead):
        return "RabbitMQ drops messages that nobody reads for that time"
    if queue.name == topology.undelivered:
        return "jobs that RabbitMQ gave up go to the dead queue without a result"
    return "a job that waits for longer ends as expired"


def _harm_of_length(topology: Topology, queue: Queue) -> str:
    if queue.name == topology.jobs:
        return ""  # a bound that publishers are told of
    if queue.name == topology.undelivered:
        return "RabbitMQ drops jobs that it gave up and that do not fit"
    return "when the queue is full, jobs keep their places in the processes"


def bounds(topology: Topology, found: Mapping[str, Any]) -> str:
    """How many messages the jobs queue takes, in words; empty without a limit."""
    answer = _dict(found.get(topology.jobs))
    effective, own = (
        _dict(answer.get(part)) for part in ("effective_policy_definition", "arguments")
    )
    said = []
    for key in _LENGTHS:
        both = [value for value in (own.get(f"x-{key}"), effective.get(key)) if type(value) is int]
        if both:
            said.append(f"{key} = {min(both)}")
    return f"queue {topology.jobs}: {', '.join(said)}; it refuses what is beyond" if said else ""


def differences(topology: Topology, queue: Queue, answer: Any, bindings: Any) -> Iterator[str]:
    """In what a queue differs from what it must be; each of its policies counts as an argument."""
    found = _dict(answer)
    effective, own = (
        _dict(found.get(part)) for part in ("effective_policy_definition", "arguments")
    )
    if found.get("durable") is False:
        yield f"queue {queue.name!r} is not durable: a restart of RabbitMQ removes its messages."
    has = {_TYPE: found.get("type", _ABSENT)}
    for name in queue.arguments.keys() - {_TYPE}:
        has[name] = own.get(name, effective.get(name[2:], _ABSENT))
    wrong = {
        name: _shown(value) for name, value in has.items() if value != queue.arguments.get(name)
    }
    yield from unlike(queue, wrong)
    for name, value in own.items():
        if name not in queue.arguments and (harm := _harm(topology, queue, name[2:], value)):
            yield f"queue {queue.name!r} has {name} = {_shown(value)}: {harm}. Replace the queue."
    if queue.binding is not None and not _is_bound(queue, bindings):
        exchange, key = queue.binding
        yield (
            f"queue {queue.name!r} is not bound to the exchange {exchange!r} with the key {key!r}: "
            "nothing that is published there arrives. Bind it (docs/operations/queues.md)."
        )


def exchange_differs(name: str, kind: str, answer: Any) -> Iterator[str]:
    """In what an exchange differs from what it must be."""
    found = _dict(answer)
    if found and found.get("type") != kind:
        theirs = _shown(found.get("type", _ABSENT))
        yield (
            f"exchange {name!r} has the type {theirs}, and must have {kind}: messages go to other "
            "queues than they should. Replace the exchange (docs/operations/queues.md)."
        )


def unlike(queue: Queue, wrong: Mapping[str, str]) -> Iterator[str]:
    """Say in what a queue that others made differs; `wrong` is what it has."""
    usable = {name: value for name, value in wrong.items() if queue.may_have(name, value)}
    if usable:
        yield difference(queue, usable)
    others = sorted(wrong.items() - usable.items(), key=lambda one: (one[0] != _TYPE, one[0]))
    if others:
        has = ", ".join(_against(queue, name, value) for name, value in others)
        yield (
            f"queue {queue.name!r} has {has}: messages can be lost, or returns of a job not be "
            "counted. As broker.passive_declare is set, it is used as it is. Replace the queue "
            "(docs/operations/queues.md); what is missing can also be set by a policy."
        )


def _against(queue: Queue, argument: str, value: str) -> str:
    """An argument as it is, and as it must be. RabbitMQ 3 says that a classic queue has no type."""
    shown = "classic" if (argument, value) == (_TYPE, _ABSENT) else value
    ours = queue.arguments.get(argument, _ABSENT)
    return f"{argument} = {shown} (must be {ours or repr(ours)})"


def _is_bound(queue: Queue, bindings: Any) -> bool:
    wanted = queue.binding
    every = bindings if isinstance(bindings, list) else []
    return wanted in [(_dict(it).get("source"), _dict(it).get("routing_key")) for it in every]


def _named(answer: Mapping[str, Any]) -> str:
    """The policies of a queue, by their names."""
    named = [
        f"{kind} {printable(name, 100)!r}"
        for kind, name in (
            ("policy", answer.get("policy")),
            ("operator policy", answer.get("operator_policy")),
        )
        if isinstance(name, str) and name
    ]
    return " with ".join(named) or "a policy"


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - MAX_NAMED} more" if len(every) > MAX_NAMED else ""
    return ", ".join(every[:MAX_NAMED]) + more


def _shown(value: Any) -> str:
    return printable(str(value), 100)


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
