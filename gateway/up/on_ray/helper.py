"""The process that knows Ray, for `headgate up --on ray` and `headgate fleet`.

It is told what shall run as the fleet of one machine is, and answers so (`gateway.wire.line`). When
it ends, what it placed goes on in the cluster, and the next one takes that over.
"""

import asyncio
import importlib.util
import json
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gateway.processes.tasks import Tasks, told
from gateway.up.plan import Site, cpu_count
from gateway.wire.channel import Channel

LET_IN_WITHIN_S = 30.0
EXTRA = "--on ray needs Ray here, and on each host: install Headgate with its extra, headgate[ray]"


def run(arguments: Sequence[str]) -> int:
    """The exit code; the argument says, as JSON, what is asked for."""
    asked = json.loads(arguments[0])
    if importlib.util.find_spec("ray") is None:
        return _end(asked, EXTRA)
    # Nothing that Ray prints is an answer of ours.
    answers = os.dup(1)
    os.dup2(2, 1)
    if "fd" in asked:
        return asyncio.run(_serve(asked))
    return _look(asked, answers)


def _end(asked: Any, line: str) -> int:
    if "fd" in asked:
        return asyncio.run(_refuse(asked["fd"], line))
    json.dump({"refused": line}, sys.stdout)
    return 0


async def _refuse(fd: int, line: str) -> int:
    channel = await _open(fd)
    await channel.send({"type": "refused", "line": line})
    channel.close()
    return 0


async def _open(fd: int) -> Channel[Any, Any]:
    return Channel(*await asyncio.open_connection(sock=socket.socket(fileno=fd)))


async def _serve(asked: Any) -> int:
    from gateway.up.on_ray import cluster
    from gateway.up.on_ray.follower import Follower
    from gateway.up.on_ray.keeper import Keeper

    channel = await _open(asked["fd"])
    begin = await channel.receive()
    if begin is None:
        return 0

    def say(line: str) -> None:
        channel.send_soon({"type": "say", "line": line})

    try:
        async with asyncio.timeout(LET_IN_WITHIN_S):
            await asyncio.to_thread(cluster.connect, asked["fleet"])
        if not await asyncio.to_thread(cluster.look_at_the_head):
            say(
                "the head of this Ray cluster keeps nothing on a disk: all instances end 60 s after"
                " it does (headgate ray-env says what it needs)"
            )
    except (cluster.ClusterRefused, TimeoutError) as error:
        line = str(error) or cluster.not_let_in()
        await channel.send({"type": "refused", "line": line})
        os._exit(0)  # a thread of Ray's may wait for a cluster that is not there
    site = Site(Path(asked["file"]), Path(asked["cwd"]), cpu_count(), os.environ)
    kind = Follower if asked["follows"] else Keeper
    keeper = kind(
        cluster.Actors(asked["fleet"]), cluster.room, site, say,
        reached=lambda: channel.send_soon({"type": "reached"}),
    )  # fmt: skip
    tasks = Tasks(lambda name, error: say(f"{name}: {told(error)}"))
    again = begin["again"]
    starting = tasks.run("the start in the cluster", keeper.start(begin["backends"], again=again))
    listening = tasks.run("listening to the launcher", channel.receive())
    await asyncio.wait({starting, listening}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():  # nobody waits any more
        os._exit(0)
    placed = starting.result()
    # What somebody else could not start is no reason not to serve the rest.
    errors = {} if asked["follows"] else {name: keeper.error(name) for name in placed}
    channel.send_soon({"type": "begun", "placed": placed, "errors": errors})
    keeper.attach(channel.send_soon, again=again)
    message = await listening
    while message is not None:
        if message["type"] == "renew":
            keeper.renew(message["backends"])
        else:
            keeper.take(message)
        message = await channel.receive()
    os._exit(0)


def _look(asked: Any, answers: int) -> int:
    """`headgate fleet status` and `down`, as JSON."""
    from gateway.up.on_ray import looking

    found, code = looking.answer(asked["ask"])
    with os.fdopen(answers, "w") as out:
        json.dump(found, out)
    os._exit(code)
