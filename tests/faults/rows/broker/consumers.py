"""Rows in which the broker takes a delivery back, or stops giving any, and does not say so.

May touch: the scene and its own broker.
Must never: cancel a consumer in a way that the daemon is told of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.faults.register import row

if TYPE_CHECKING:
    from tests.faults.scene import Scene

# Takes the queue's consumers out of its books. No channel hears of it: for the daemon all is well.
FORGET = """
begin
{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"{queue}">>)),
[ra:process_command(amqqueue:get_pid(Q), rabbit_fifo:make_checkout({{Tag, Pid}}, cancel, #{{}}))
    || Consumer <- rabbit_amqqueue:consumers(Q),
       Pid <- [element(1, Consumer)], Tag <- [element(2, Consumer)]]
end"""


@row(14, "consumer-starved", says="consumer_starved broker_lost")
def consumer_starved(scene: Scene) -> None:
    """The queue forgets its consumer: the daemon sees that it gets nothing, and registers anew."""
    scene.start()
    scene.load(scene.many(500, 50))
    scene.quiet()
    for _ in range(scene.many(3, 1)):
        lines = len(scene.daemon.lines)
        scene.node.eval(FORGET.format(queue=f"{scene.prefix}.jobs"))
        scene.heal()
        scene.load(scene.many(500, 50))
        scene.daemon.wait_for_line("consumer_starved", start=lines)
        scene.quiet()
    scene.daemon.says("times starved")


@row(8, "ack-timeout", nodes=1, says="broker_limit broker_lost")
def ack_timeout(scene: Scene) -> None:
    """The broker's ack timeout is shorter than a job: learned once, then jobs end before it."""
    for setting in ("channel_tick_interval, 1000", "consumer_timeout, 5000"):
        scene.node.eval(f"application:set_env(rabbit, {setting})")
    scene.start(jobs__max_retries=20)
    scene.cuts += 1
    held = scene.load(scene.many(20, 5), "/hold/{n}")
    scene.load(scene.many(1000, 100))
    line = scene.daemon.wait_for_line("broker_limit")
    assert '"setting":"broker.ack_timeout","broker_takes":5.0' in line, line
    scene.outcomes(len(scene.ledger.letters) - len(held))
    for _ in range(3):  # held again and again: each attempt ends in time, and takes nobody along
        start = len(scene.daemon.lines)
        scene.daemon.wait_for_line('"kind":"timeout","error":"the job took over 3.7', start=start)
    assert sum(line["event"] == "broker_lost" for line in scene.daemon.logged()) == 1
    scene.site.release()
    scene.heal()
