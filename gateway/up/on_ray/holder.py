"""What runs on the host that Ray chose for one instance?

A `Holder` is the class of an actor: it keeps one `headgate instance` process, as `headgate up`
keeps one on its own machine, and tells how that is. The process is tied to the actor's and ends
with it. An actor that is not the one of its name any more, because its host was cut off and Ray
put another one in its place, ends itself.
"""

import asyncio
import os
import random
import secrets
import threading
import time
from collections import deque
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayError

from gateway.core.table import Instance
from gateway.processes.lifeline import Lifeline
from gateway.processes.sockets import ListenError
from gateway.processes.tasks import Tasks
from gateway.up import ports
from gateway.up.on_ray.words import Told
from gateway.up.plan import InstancePlan
from gateway.up.process import InstanceProcess

_ray: Any = ray  # it says little of its types
LOOK_AT_NAME_S = 2.0
ANSWER_WITHIN_S = 10.0
SEEN_WITHIN_S = 1.0  # gateways look three times a second
MAX_LINES = 200
SECRETS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
"""What lets whoever has it run anything in the cluster: no model gets it."""


class Holder:
    """Keeps the process of `plan`, whose address is chosen here; `name` is its actor's."""

    def __init__(self, name: str, plan: InstancePlan) -> None:
        self._name, self._plan = name, plan
        self._incarnation = secrets.token_hex(8)
        self._address: str | None = None
        self._process: InstanceProcess | None = None
        self._lines: deque[str] = deque(maxlen=MAX_LINES)
        self._number = 0
        self._fault: str | None = None
        self._leaves = False
        self._loop = asyncio.new_event_loop()
        self._host = _ray.util.get_node_ip_address()
        self._gpus = [int(each) for each in _ray.get_gpu_ids()]
        self._since = time.time()
        # The kernel ties a child to the thread that started it: this one lives as we do.
        threading.Thread(target=self._run, daemon=True).start()
        threading.Thread(target=self._mind_the_name, daemon=True).start()

    def look(self, after: int) -> Told:
        """How it is, and the lines that it wrote after that number."""
        process, new = self._process, max(0, self._number - after)
        return {
            "address": self._address,
            "host": self._host,
            "gpus": self._gpus,
            "since": self._since,
            "pid": process.pid if process is not None else None,
            "state": process.state if process is not None else "starting",
            "served": process is not None and process.served,
            "leaves": self._leaves,
            "restarts": process.restarts if process is not None else 0,
            "error": self._fault or (process.error if process is not None else None),
            "number": self._number,
            "lines": list(self._lines)[-new:] if new else [],
        }

    def incarnation(self) -> str:
        """Another one in each process that has this actor."""
        return self._incarnation

    def stop(self, within_s: float) -> None:
        """Returns when the instance has finished what it had, or was killed after `within_s`. It is
        ended once every gateway can have seen that it goes."""
        self._leaves = True
        time.sleep(SEEN_WITHIN_S)
        done = threading.Event()

        def begin() -> None:
            process = self._process
            if process is None:
                done.set()
                return
            process.stop(within_s)
            self._own.run("the end", self._until_gone(process, done))

        self._loop.call_soon_threadsafe(begin)
        done.wait(within_s + ANSWER_WITHIN_S)

    async def _until_gone(self, process: InstanceProcess, done: threading.Event) -> None:
        await process.ended()
        done.set()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._hold())

    async def _hold(self) -> None:
        self._own, lifeline = Tasks(lambda name, error: None), Lifeline()
        try:
            instance = self._choose()
        except (ListenError, OSError) as error:
            self._fault = str(error)
            return
        plan = replace(
            self._plan,
            instance=instance,
            argv=_at(self._plan.argv, instance),
            environment=(*((name, "") for name in SECRETS), *self._plan.environment),
        )
        self._process = InstanceProcess(
            1, "", 0, plan, self._own, lifeline,
            changed=lambda process: None, heard=self._hear, relay=lambda plan, line: None,
            say=lambda line: self._hear(plan, line),
        )  # fmt: skip
        self._address = instance.address
        self._process.start()
        await asyncio.Event().wait()

    def _choose(self) -> Instance:
        return ports.choose((), random.SystemRandom(), self._host)

    def _hear(self, _: InstancePlan, line: str) -> None:
        self._lines.append(line[:4096])
        self._number += 1

    def _mind_the_name(self) -> None:
        """Ends this process when somebody else has the name."""
        pause = threading.Event()
        while not pause.wait(LOOK_AT_NAME_S):
            namespace = _ray.get_runtime_context().namespace
            try:
                actor: Any = _ray.get_actor(self._name, namespace=namespace)
                other = _ray.get(actor.incarnation.remote(), timeout=ANSWER_WITHIN_S)
            except ValueError:  # nobody has it any more
                os._exit(0)
            except (RayError, OSError):
                continue  # the head is away: nobody says anything of names
            if other != self._incarnation:
                os._exit(0)


def _at(argv: tuple[str, ...], instance: Instance) -> tuple[str, ...]:
    """`argv` of an instance, to listen where `instance` says."""
    found = list(argv)
    found[found.index("--host") + 1] = instance.host
    found[found.index("--port") + 1] = str(instance.port)
    return tuple(found)
