"""The daemon from outside: published to, killed, terminated, restarted, deprived of its broker.

May touch: a private broker, a site in a thread, the daemon as a subprocess.
Must never: sleep for luck; each wait is for something that is seen.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import pika
import pytest

from scraperd.broker.rabbitmq.topology import Topology
from tests.rig.brokers.node import Node
from tests.rig.brokers.wire import Seen, Wire
from tests.rig.daemon import Daemon, Dispatcher
from tests.rig.debs import debs, libraries
from tests.rig.ports import free_port
from tests.rig.process import Process

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.rig.sites.hostel import Hostel


def ids(results: list[dict[str, Any]]) -> list[str]:
    """The ids, sorted, of results without their duplicates."""
    return sorted({result["id"] for result in results})


def gather(dispatcher: Dispatcher, wanted: list[str], timeout: float = 60) -> list[dict[str, Any]]:
    """Results until each wanted id was seen; duplicates are allowed, losses are not."""
    missing, found = set(wanted), []
    for _, body in dispatcher.stream("results", timeout):
        found.append(json.loads(body))
        missing.discard(found[-1]["id"])
        if not missing:
            return found
    raise AssertionError(f"{len(missing)} of {len(wanted)} results are missing after {timeout} s")


def test_many_jobs_end_to_end(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """300 jobs published before the daemon starts each get one result with the page's own title."""
    with Daemon(broker_url, prefix).ready():
        pass  # the queues exist from here on
    urls = [hostel.url(f"/page/{n}") for n in range(300)]
    idents = dispatcher.publish_many(urls, extract={"title": "title"}, meta={"n": [1, None]})
    with Daemon(broker_url, prefix).ready() as daemon:
        results = dispatcher.results(300)
        assert daemon.drain() == 0
    assert sorted(result["id"] for result in results) == sorted(idents)
    for result in results:
        assert result["status"] == "ok"
        assert result["url"].endswith(result["data"]["title"])
        assert result["meta"] == {"n": [1, None]}
        assert "body" not in result
    lines = daemon.logged("job")
    assert sorted(line["id"] for line in lines) == sorted(idents)
    assert {(line["verdict"], line["http_status"]) for line in lines} == {("done", 200)}


def test_jobs_from_the_amqp_publish_tool(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel, amqp_publish: Tool
) -> None:
    """A client in C, with no properties but a body, is understood: through queue and exchange."""
    with Daemon(broker_url, prefix).ready():
        job = json.dumps({"url": hostel.url("/page/1")})
        for exchange in ("", f"{prefix}.jobs"):
            url = broker_url.removesuffix(
                "/"
            )  # to rabbitmq-c a path of "/" is a vhost without a name
            command = [amqp_publish.path, "-u", url, "-e", exchange, "-r", f"{prefix}.jobs"]
            subprocess.run([*command, "-p", "-b", job], check=True, env=amqp_publish.env)
        results = dispatcher.results(2)
    assert {result["status"] for result in results} == {"ok"}
    assert all(len(result["id"]) == 32 for result in results)


INVALID = {
    "bad UTF-8": (b'{"url": "http://a/\xff"}', ""),
    "bad JSON": (b'{"url": ', ""),
    "NaN": (b'{"url": "http://a/", "meta": NaN}', ""),
    "deep nesting": (b'{"url": "http://a/", "meta": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", ""),
    "not an object": (b'["http://a/"]', ""),
    "empty": (b"", ""),
    "no url": (b"{}", "url"),
    "unknown field": (b'{"url": "http://a/", "ulr": 1}', "ulr"),
    "wrong type": (b'{"url": 3}', "url"),
    "userinfo": (b'{"url": "http://user:secret@a/"}', "url"),
    "scheme": (b'{"url": "file:///etc/passwd"}', "url"),
    "no scheme": (b'{"url": "//a/"}', "url"),
    "CR LF in a header": (b'{"url": "http://a/", "headers": {"x": "1\\r\\ny: 2"}}', "headers.x"),
    "selector": (b'{"url": "http://a/", "extract": {"t": ":x("}}', "extract.t.selector"),
}


@pytest.mark.parametrize("identified", [False, True], ids=["anonymous", "identified"])
def test_invalid_jobs_end_in_the_dead_queue(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel, *, identified: bool
) -> None:
    """Each kind of invalid job: the untouched body with field and reason in the dead queue, a
    failed result if there is an id to send it under, and the daemon lives on, with no retry.
    """
    known = {"correlation_id": "c1"} if identified else {}
    with Daemon(broker_url, prefix).ready() as daemon:
        for name, (body, field) in INVALID.items():
            dispatcher.publish(body, **known)
            properties, dead = dispatcher.take("dead")
            headers = properties.headers
            assert dead == body, name
            assert headers["x-scraperd-dead-kind"] == "invalid_job", name
            assert headers["x-scraperd-dead-field"] == field, name
            assert headers["x-scraperd-dead-message"].startswith(field), name
            if identified:
                [result] = dispatcher.results(1)
                assert (result["id"], result["error"]["kind"]) == ("c1", "invalid_job"), name
        dispatcher.publish({"url": hostel.url("/page/1"), "id": "good"})
        assert dispatcher.results(1)[0]["id"] == "good"
        assert daemon.drain() == 0
    assert len(daemon.logged("job")) == len(INVALID) + 1
    assert "secret" not in daemon.stdout + daemon.stderr


def test_properties_travel(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """correlation_id, trace headers and the message id as the job's id survive a retry; headers
    that would make the broker send copies elsewhere do not.
    """
    headers = {"traceparent": "00-1-2-01", "CC": [f"{prefix}.dead"], "n": 7}
    with Daemon(broker_url, prefix).ready():
        job = {"url": hostel.url("/flaky/1/a")}
        dispatcher.publish(job, message_id="m1", correlation_id="c1", headers=headers)
        copy, _ = dispatcher.take("dead")  # the publisher's own CC, honoured by the broker
        assert copy.message_id == "m1"
        properties, body = dispatcher.take("results")
    result = json.loads(body)
    assert (result["id"], result["attempt"]) == ("m1", 2)
    assert properties.correlation_id == "c1"
    assert properties.headers["traceparent"] == "00-1-2-01"
    assert properties.headers["n"] == 7
    assert "CC" not in properties.headers
    assert dispatcher.depth("dead") == 0


@pytest.mark.parametrize(
    "properties",
    [
        {"reply_to": "amq.rabbitmq.reply-to.%%%.k"},
        {"headers": {"a": "x" * 131_000}},
        {"headers": {"n" * 200: 1, "m" * 255: 2}},
        {"headers": {"x-scraperd-job-id": "x" * 120_000}},
        {"headers": {"x-scraperd-attempt": "many", "x-delivery-count": 99}},
    ],
    ids=["direct reply-to", "headers", "names", "job id", "signed headers"],
)
def test_hostile_properties_end_with_their_own_job(
    broker_url: str,
    prefix: str,
    dispatcher: Dispatcher,
    hostel: Hostel,
    properties: dict[str, Any],
) -> None:
    """What the broker or the library would end the connection over costs no other job anything:
    five held pages are finished in their first delivery, and the evil job has its one result.
    """
    with Daemon(broker_url, prefix).ready() as daemon:
        idents = dispatcher.publish_many([hostel.url(f"/hold/{n}") for n in range(5)])
        hostel.wait_for(lambda hits: len(hits) == 5)
        dispatcher.publish({"url": hostel.url("/page/1"), "id": "evil"}, **properties)
        [evil] = dispatcher.results(1)
        hostel.release()
        innocent = dispatcher.results(5)
        assert daemon.drain() == 0
    assert (evil["id"], evil["status"]) == ("evil", "ok")
    assert ids(innocent) == sorted(idents)
    assert {result["status"] for result in innocent} == {"ok"}
    assert not daemon.logged("broker_lost")
    assert daemon.stderr == ""


def test_orderly_restarts_are_held_against_no_job(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """A job that is cut off by each drain, and those that wait behind it, go back as they came:
    more restarts than `delivery_limit` put none of them into quarantine.
    """
    settings = {
        "jobs__delivery_limit": 3,
        "jobs__shutdown_timeout": 0.1,
        "concurrency": 1,
        "broker__prefetch": 20,
    }
    crashed = []
    for run in range(4):
        with Daemon(broker_url, prefix, **settings).ready() as daemon:
            if not run:
                dispatcher.publish_many([hostel.url(f"/hold/{n}") for n in range(10)])
            hostel.wait_for(lambda hits, run=run: hits.total() > run)
            assert daemon.drain() == 0
        crashed += [line for line in daemon.logged("job") if "strikes" in line]
        assert dispatcher.depth("jobs") == 10
    hostel.release()
    with Daemon(broker_url, prefix, **settings).ready() as daemon:
        results = dispatcher.results(10)
    crashed += [line for line in daemon.logged("job") if "strikes" in line]
    assert {result["status"] for result in results} == {"ok"}
    assert crashed == []


def test_a_drain_loses_no_ack(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel, node: Node
) -> None:
    """Two hundred jobs that end in the last moment are all acked: none comes again. RabbitMQ
    forgets acks beyond the 32 that it has passed on when the channel closes.
    """
    with Daemon(broker_url, prefix, concurrency=200).ready() as daemon:
        dispatcher.publish_many([hostel.url(f"/hold/{n}") for n in range(200)])
        hostel.wait_for(lambda hits: hits.total() == 200)
        daemon.terminate()
        daemon.wait_for_line('"event":"drain"')
        hostel.release()
        assert daemon.wait(30) == 0
    assert len(dispatcher.results(200)) == 200
    assert node.counts()[f"{prefix}.jobs"][:2] == (0, 0)


def test_a_job_past_its_limit_gets_its_outcome_without_its_properties(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """What in its reply_to or headers ended each delivery before is left out of the last one."""
    own = dispatcher.channel.queue_declare("", exclusive=True).method.queue
    with Daemon(broker_url, prefix, jobs__delivery_limit=3).ready() as daemon:
        job = {"url": hostel.url("/hold/1"), "id": "a"}
        headers = {"traceparent": "t"}
        dispatcher.publish(job, queue="quarantine.solo", reply_to=own, headers=headers)
        hostel.wait_for(lambda hits: len(hits) == 1)
        daemon.kill()
    with Daemon(broker_url, prefix, jobs__delivery_limit=3).ready():
        properties, body = dispatcher.take("results")
        dead, untouched = dispatcher.take("dead")
    assert json.loads(body)["error"]["kind"] == "internal"
    assert "traceparent" not in properties.headers
    assert properties.headers["x-scraperd-unroutable-reply-to"] == own
    assert (json.loads(untouched), dead.reply_to) == (job, None)
    assert dead.headers["x-scraperd-reply-to"] == own
    [line] = daemon.logged("solo_job")
    assert (line["id"], line["host"], line["strikes"]) == ("a", "127.0.0.1", 2)


def test_a_log_that_cannot_be_written_ends_nothing(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """With its log on a full disk the daemon works, drains, and exits with 0."""
    with Daemon(broker_url, prefix).ready():
        pass
    env = {"SCRAPERD_BROKER_URL": broker_url, "SCRAPERD_BROKER__PREFIX": prefix}
    command = f"exec {sys.executable} -m scraperd run > /dev/full"
    with Process(["sh", "-c", command], env=env) as daemon:
        idents = dispatcher.publish_many([hostel.url(f"/page/{n}") for n in range(20)])
        assert ids(dispatcher.results(20)) == sorted(idents)
        daemon.terminate()
        assert daemon.wait() == 0, daemon.stderr


def test_a_consumer_lost_while_connecting_is_waited_for(
    node: Node, broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """The consuming connection is cut while the other one declares: again and again, the daemon
    tries anew instead of dying, shows no password, and works in the end.
    """

    def consumer_of_a_declaring(seen: Seen) -> int | None:
        """Of each pair, the consuming connection is the first."""
        declares = seen.sent and seen.name == "Queue.Declare" and seen.connection < 6
        return seen.connection - 1 if declares else None

    with Wire(node.port) as wire:
        wire.cut_when = consumer_of_a_declaring
        with Daemon(wire.url, prefix, log__format="console", broker__reconnect_max=0.5) as daemon:
            daemon.wait_for_line("ready")
            dispatcher.publish({"url": hostel.url("/page/1"), "id": "a"})
            assert dispatcher.results(1)[0]["id"] == "a"
            assert daemon.drain() == 0
    assert max(seen.connection for seen in wire.seen) >= 7
    assert "Traceback" not in daemon.stdout + daemon.stderr
    assert "guest" not in daemon.stdout + daemon.stderr


def test_expired_and_too_large(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """Past expires_at nothing is fetched; a result larger than the broker takes fails instead."""
    with Daemon(broker_url, prefix, jobs__max_result_size=20_000).ready():
        dispatcher.publish(
            {"url": hostel.url("/page/1"), "id": "late", "expires_at": "2020-01-01T00:00:00Z"}
        )
        dispatcher.publish({"url": hostel.url("/size/30000"), "id": "big"})
        kinds = {result["id"]: result["error"]["kind"] for result in dispatcher.results(2)}
    assert kinds == {"late": "expired", "big": "too_large"}
    assert hostel.hits["/page/1"] == 0


def test_kill_9_loses_nothing(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """Killed with 50 pages in flight, the daemon's jobs all get a result from its successor."""
    with Daemon(broker_url, prefix).ready() as daemon:
        idents = dispatcher.publish_many([hostel.url(f"/hold/{n}") for n in range(50)])
        hostel.wait_for(lambda hits: len(hits) == 50)
        daemon.kill()
    hostel.release()
    with Daemon(broker_url, prefix).ready() as daemon:
        results = dispatcher.results(50)
        assert daemon.drain() == 0
    assert ids(results) == sorted(idents)
    assert dispatcher.depth("jobs") == dispatcher.depth("results") == 0


def test_sigterm_drains(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """SIGTERM with work in flight and more waiting: what was begun is finished and acked once,
    the rest stays in the queue, and the exit code is 0.
    """
    with Daemon(broker_url, prefix, concurrency=5, broker__prefetch=20).ready() as daemon:
        idents = dispatcher.publish_many([hostel.url(f"/hold/{n}") for n in range(40)])
        hostel.wait_for(lambda hits: len(hits) == 5)
        daemon.terminate()
        daemon.wait_for_line('"event":"drain"')
        hostel.release()
        assert daemon.wait() == 0
    assert len(hostel.hits) == 5
    assert dispatcher.depth("jobs") == 35
    first = dispatcher.results(5)
    with Daemon(broker_url, prefix).ready():
        rest = dispatcher.results(35)
    assert sorted(r["id"] for r in first + rest) == sorted(idents)


def test_sigterm_with_a_site_that_hangs(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """What is not finished by shutdown_timeout goes back to the broker; the exit is still 0."""
    with Daemon(broker_url, prefix, jobs__shutdown_timeout=0.5).ready() as daemon:
        dispatcher.publish({"url": hostel.url("/hold/1"), "id": "a"})
        hostel.wait_for(lambda hits: len(hits) == 1)
        assert daemon.drain() == 0
        assert daemon.logged("drain_timeout")[0]["left"] == 1
    hostel.release()
    with Daemon(broker_url, prefix).ready():
        assert dispatcher.results(1)[0]["id"] == "a"


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_signals_of_users_are_ignored(
    broker_url: str, prefix: str, dispatcher: Dispatcher, number: signal.Signals
) -> None:
    """A signal without a meaning, from a log rotation say, neither ends it nor goes unsaid."""
    with Daemon(broker_url, prefix).ready() as daemon:
        daemon.send_signal(number)
        daemon.wait_for_line("signal_ignored")
        assert daemon.logged("signal_ignored")[0]["signal"] == number.name
        assert daemon.drain() == 0


def test_ctrl_c_that_comes_twice_is_one(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """A terminal and a supervisor both send SIGINT: the job in flight is finished all the same."""
    with Daemon(broker_url, prefix, jobs__shutdown_timeout=60).ready() as daemon:
        dispatcher.publish({"url": hostel.url("/hold/1"), "id": "a"})
        hostel.wait_for(lambda hits: len(hits) == 1)
        daemon.send_signal(signal.SIGINT)
        daemon.wait_for_line('"event":"drain"')
        daemon.send_signal(signal.SIGINT)
        daemon.send_signal(signal.SIGTERM)
        hostel.release()
        assert daemon.wait(30) == 0
        assert not daemon.logged("second_signal")
    assert dispatcher.results(1)[0]["id"] == "a"


def test_a_second_signal_ends_at_once(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """The second SIGTERM does not wait for the hanging page, and the job is not lost."""
    with Daemon(broker_url, prefix, jobs__shutdown_timeout=60).ready() as daemon:
        dispatcher.publish({"url": hostel.url("/hold/1"), "id": "a"})
        hostel.wait_for(lambda hits: len(hits) == 1)
        daemon.terminate()
        daemon.wait_for_line('"event":"drain"')
        daemon.terminate()
        assert daemon.wait(5) == 128 + signal.SIGTERM
    hostel.release()
    with Daemon(broker_url, prefix).ready():
        assert dispatcher.results(1)[0]["id"] == "a"


def test_a_job_that_never_ends_is_dead_by_the_limit(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """A job whose process is killed each time gets its outcome once delivery_limit is reached."""
    with Daemon(broker_url, prefix, jobs__delivery_limit=3).ready():
        pass
    dispatcher.publish({"url": hostel.url("/hold/1"), "id": "a"})
    for attempt in range(1, 4):
        with Daemon(broker_url, prefix, jobs__delivery_limit=3).ready() as daemon:
            hostel.wait_for(lambda hits, attempt=attempt: hits["/hold/1"] == attempt)
            daemon.kill()
    with Daemon(broker_url, prefix, jobs__delivery_limit=3).ready():
        [result] = dispatcher.results(1)
        dead, _ = dispatcher.take("dead")
    assert result["error"]["kind"] == "internal"
    assert dead.headers["x-scraperd-dead-kind"] == "internal"
    assert dead.headers["x-scraperd-strikes"] == 3
    assert hostel.hits["/hold/1"] == 3


def test_the_broker_is_waited_for(tmp_path: Path, prefix: str, hostel: Hostel) -> None:
    """With no broker at the start the daemon says so once, and consumes as soon as there is one."""
    port = free_port()
    with Daemon(f"amqp://guest:guest@127.0.0.1:{port}/", prefix) as daemon:
        daemon.wait_for_line("broker_unreachable")
        with Node(tmp_path, port=port):
            daemon.ready()
            assert len(daemon.logged("broker_unreachable")) == 1
            assert daemon.drain() == 0


def test_sigterm_without_a_broker(prefix: str) -> None:
    """A daemon that waits for its broker still ends at once, with 0."""
    with Daemon(f"amqp://guest:guest@127.0.0.1:{free_port()}/", prefix) as daemon:
        daemon.wait_for_line("broker_unreachable")
        assert daemon.drain() == 0


def test_a_frozen_broker(tmp_path: Path, hostel: Hostel, prefix: str, dispatcher_of: Any) -> None:
    """A broker that stops answering is given up after the heartbeats, with jobs in flight and a
    publish pending; when it thaws, every job gets its result.
    """
    with Node(tmp_path) as node, Daemon(node.url, prefix, broker__heartbeat=1).ready() as daemon:
        dispatcher = dispatcher_of(node.url, prefix)
        idents = dispatcher.publish_many([hostel.url(f"/hold/{n}") for n in range(10)])
        hostel.wait_for(lambda hits: len(hits) == 10)
        node.pause()
        hostel.release()
        daemon.wait_for_line("broker_lost", timeout=40)
        node.resume()
        daemon.wait_for_line('"event":"ready"', start=len(daemon.lines))
        results = gather(dispatcher_of(node.url, prefix), idents)
        assert daemon.drain() == 0
    assert ids(results) == sorted(idents)


def test_the_jobs_queue_is_deleted(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """A broker's basic.cancel ends the generation; the next declares the queue and consumes."""
    with Daemon(broker_url, prefix).ready() as daemon:
        dispatcher.channel.queue_delete(f"{prefix}.jobs")
        daemon.wait_for_line("broker_lost")
        daemon.wait_for_line('"event":"ready"', start=len(daemon.lines) - 1)
        dispatcher.publish({"url": hostel.url("/page/1"), "id": "a"})
        assert dispatcher.results(1)[0]["id"] == "a"


def test_a_conflicting_queue_ends_the_start_in_words(
    broker_url: str, prefix: str, dispatcher: Dispatcher
) -> None:
    """A queue of ours that waits for another time: exit 78, naming queue, both values, remedy."""
    queues = {queue.name: queue.arguments for queue in Topology(prefix).queues}
    name = f"{prefix}.delay.2"
    arguments = {**queues[name], "x-message-ttl": 9000}
    dispatcher.channel.queue_declare(name, durable=True, arguments=arguments)
    with Daemon(broker_url, prefix) as daemon:
        assert daemon.wait() == 78
    [line] = daemon.logged("config")
    for part in (name, "x-message-ttl = 9000", "asks for 2000", "delete_queue"):
        assert part in line["error"]
    assert "Traceback" not in daemon.stdout + daemon.stderr


def test_a_queue_with_another_delivery_limit_is_used_and_said(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """The count that ends a job is the daemon's own: the broker's may be what an earlier version
    declared. It is said once, with what could be done.
    """
    queues = {queue.name: queue.arguments for queue in Topology(prefix).queues}
    declare = dispatcher.channel.queue_declare
    arguments = {**queues[f"{prefix}.jobs"], "x-delivery-limit": 5}
    declare(f"{prefix}.jobs", durable=True, arguments=arguments)
    older = {key: v for key, v in queues[f"{prefix}.results"].items() if "limit" not in key}
    declare(f"{prefix}.results", durable=True, arguments=older)  # and bound to nothing
    with Daemon(broker_url, prefix).ready() as daemon:
        dispatcher.publish({"url": hostel.url("/page/1"), "id": "a"})
        assert dispatcher.results(1)[0]["id"] == "a"
    results, jobs = (line["error"] for line in daemon.logged("queue_differs"))
    assert "x-delivery-limit = 5, where scraperd would ask for 100" in jobs
    assert f"'{prefix}.results' exists with x-delivery-limit = nothing" in results


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"broker__passive_declare": True}, "does not exist"),
        ({"broker_url": ("guest:guest", "guest:hunter2")}, "refused the user name or the password"),
    ],
    ids=["passive", "password"],
)
def test_a_broker_that_refuses_ends_the_start(
    broker_url: str, prefix: str, change: dict[str, Any], words: str
) -> None:
    """What waiting can't mend ends the start with 78 and one line, and never shows the password."""
    url = broker_url.replace(*change.pop("broker_url", ("", "")))
    with Daemon(url, prefix, **change) as daemon:
        assert daemon.wait() == 78
    assert words in daemon.logged("config")[0]["error"]
    assert "hunter2" not in daemon.stdout + daemon.stderr


def test_a_wrong_vhost_is_said(broker_url: str, prefix: str) -> None:
    """A vhost that is not there looks like one that is still starting: it is waited for, in words
    that name it.
    """
    with Daemon(f"{broker_url}novhost", prefix) as daemon:
        assert "does the vhost of broker_url exist" in daemon.wait_for_line("broker_unreachable")
        assert daemon.drain() == 0


def test_passive_declare_works_on_a_provisioned_broker(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """With the queues in place, a daemon that may not declare does all its work."""
    with Daemon(broker_url, prefix).ready():
        pass
    with Daemon(broker_url, prefix, broker__passive_declare=True).ready():
        dispatcher.publish({"url": hostel.url("/page/1"), "id": "a"})
        assert dispatcher.results(1)[0]["id"] == "a"


def test_systemd_is_told(
    broker_url: str, prefix: str, tmp_path: Path, hostel: Hostel, dispatcher: Dispatcher
) -> None:
    """READY once it consumes, WATCHDOG and STATUS while it runs, STOPPING when it drains."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(20)
        env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
        with Daemon(broker_url, prefix, env=env) as daemon:
            told = list(_told(listener, "READY=1"))
            assert all("READY=1" not in message for message in told[:-1])
            assert "STATUS=consuming" in told[-1]
            list(_told(listener, "WATCHDOG=1"))
            dispatcher.publish({"url": hostel.url("/page/1"), "id": "a"})
            dispatcher.results(1)
            list(_told(listener, "1 done"))
            dispatcher.publish({"url": hostel.url("/hold/1"), "id": "b"})
            hostel.wait_for(lambda hits: hits["/hold/1"] == 1)
            daemon.terminate()
            stopping = list(_told(listener, "STOPPING=1"))[-1]
            assert "EXTEND_TIMEOUT_USEC=60000000" in stopping
            assert "STATUS=draining; 1 in flight" in stopping
            assert "STATUS=draining" in list(_told(listener, "WATCHDOG=1"))[-1]
            hostel.release()
            assert daemon.wait() == 0


def _told(listener: socket.socket, until: str) -> Iterator[str]:
    while True:
        message = listener.recv(4096).decode()
        yield message
        if until in message:
            return


def test_a_blocked_broker_is_said_and_survived(
    tmp_path: Path, hostel: Hostel, prefix: str, dispatcher_of: Any
) -> None:
    """Under a memory alarm results wait; when it clears they arrive, no page fetched twice."""
    with (
        Node(tmp_path) as node,
        Daemon(node.url, prefix, broker__confirm_timeout=1).ready() as daemon,
    ):
        dispatcher = dispatcher_of(node.url, prefix)
        dispatcher.publish({"url": hostel.url("/page/0"), "id": "first"})
        dispatcher.results(1)
        idents = dispatcher.publish_many([hostel.url(f"/hold/{n}") for n in range(5)])
        hostel.wait_for(lambda hits: len(hits) == 6)
        node.alarm_memory()
        hostel.release()
        daemon.wait_for_line("broker_blocked")
        node.clear_alarms()
        daemon.wait_for_line("broker_unblocked")
        results = dispatcher.results(5)
        assert daemon.drain() == 0
    assert ids(results) == sorted(idents)
    assert set(hostel.hits.values()) == {1}
    assert not daemon.logged("broker_lost")


@pytest.fixture
def dispatcher_of() -> Iterator[Any]:
    """Dispatchers for brokers of a test's own."""
    connections = []

    def connect(url: str, prefix: str) -> Dispatcher:
        parameters = pika.URLParameters(url)
        parameters.heartbeat = 0
        connections.append(pika.BlockingConnection(parameters))
        channel = connections[-1].channel()
        channel.confirm_delivery()
        return Dispatcher(channel, prefix)

    yield connect
    for connection in connections:
        with contextlib.suppress(pika.exceptions.AMQPError):  # its broker was killed on purpose
            connection.close()


class Tool(NamedTuple):
    """A program and the environment it needs."""

    path: str
    env: dict[str, str]


@pytest.fixture(scope="session")
def amqp_publish() -> Tool:
    """The `amqp-publish` tool of rabbitmq-c: the machine's, or unpacked into the checkout."""
    if found := shutil.which("amqp-publish"):
        return Tool(found, {})
    root = debs("amqp-tools")
    return Tool(str(root / "usr/bin/amqp-publish"), {"LD_LIBRARY_PATH": libraries(root)})
