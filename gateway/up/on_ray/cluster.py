"""How is a Ray cluster asked?

Every call here may take as long as the cluster's head is away, so whoever has a loop asks from a
thread. A fleet is a namespace with an actor, detached and named, for each instance.
"""

import json
import logging
import os
import secrets
import time
from collections.abc import Iterable
from typing import Any

import ray
import ray.experimental.internal_kv
from ray.exceptions import ActorDiedError, GetTimeoutError, RayError

from gateway.core.cluster import Needs
from gateway.up.on_ray.holder import Holder
from gateway.up.on_ray.words import Room, Seen, Told
from gateway.up.plan import InstancePlan
from gateway.wire.line import ForFleet

_ray: Any = ray  # it says little of its types
_kv: Any = ray.experimental.internal_kv
NAMESPACE = "headgate/"
ENDED = "headgate/ended/"
ASKED = "headgate/asked/"
LOOK_S = 0.3
ASK_WITHIN_S = 30.0
HEAD = "node:__internal_head__"
STORAGE = ("RAY_gcs_storage_path", "RAY_REDIS_ADDRESS", "RAY_external_storage_namespace")


class ClusterRefused(Exception):
    """Why nothing is placed in a cluster, in one line."""


def connect(fleet: str | None) -> None:
    """Becomes a client of the cluster, in the namespace of `fleet`; ClusterRefused says why not."""
    address = os.environ.get("RAY_ADDRESS", "auto")
    if os.environ.get("RAY_AUTH_MODE") != "token":
        raise ClusterRefused(
            "a Ray cluster runs what anybody sends who reaches it: give it a token, on each host"
            " and here (headgate ray-env > ray.env; set -a; . ./ray.env)"
        )
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        _ray.init(
            address=address,
            namespace=None if fleet is None else f"{NAMESPACE}{fleet}",
            log_to_driver=False,
            configure_logging=False,
            logging_level=logging.ERROR,
        )
    except Exception as error:
        raise ClusterRefused(f"{not_let_in()}: {' '.join(str(error).split())[:300]}") from None


def not_let_in() -> str:
    """What may be wrong when nobody answers."""
    address = os.environ.get("RAY_ADDRESS", "auto")
    return (
        f"no Ray cluster lets us in at {address} (RAY_ADDRESS): is it up, and is RAY_AUTH_TOKEN its"
        " token?"
    )


def _environment_of_the_head() -> tuple[bool, bool]:
    has_token = os.environ.get("RAY_AUTH_MODE") == "token"
    return has_token, any(os.environ.get(name) for name in STORAGE)


def look_at_the_head() -> bool:
    """Whether the cluster's head keeps what it knows on a disk; ClusterRefused without a token."""
    task: Any = _ray.remote(_environment_of_the_head)
    asked = task.options(num_cpus=0, resources={HEAD: 0.001}).remote()
    try:
        has_token, has_storage = _ray.get(asked, timeout=ASK_WITHIN_S)
    except GetTimeoutError:
        why = f"the head of the Ray cluster ran nothing within {ASK_WITHIN_S:.0f} s"
        raise ClusterRefused(why) from None
    if not has_token:
        raise ClusterRefused(
            "this Ray cluster has no token: whoever reaches it can run anything there. Start it"
            " again with one, the same on every host (headgate ray-env)"
        )
    return bool(has_storage)


def room() -> Room:
    """What there is to have."""
    hosts = tuple(each["Resources"] for each in _ray.nodes() if each["Alive"])
    return Room(_ray.cluster_resources(), _ray.available_resources(), hosts)


def names(namespace: str) -> list[str]:
    """Of all actors in `namespace`."""
    found = _ray.util.list_named_actors(all_namespaces=True)
    return [str(each["name"]) for each in found if each["namespace"] == namespace]


def fleets() -> list[tuple[str, str]]:
    """Namespace and name of every instance of every fleet."""
    found = _ray.util.list_named_actors(all_namespaces=True)
    return [
        (str(each["namespace"]), str(each["name"]))
        for each in found
        if str(each["namespace"]).startswith(NAMESPACE)
    ]


class Actors:
    """The actors of the fleet called `fleet`, as one client of it knows them."""

    def __init__(self, fleet: str) -> None:
        self.namespace = fleet if fleet.startswith(NAMESPACE) else f"{NAMESPACE}{fleet}"
        self._handles: dict[str, Any] = {}
        self._asked: dict[str, Any] = {}
        self._seen: dict[str, Seen] = {}
        self._numbers: dict[str, int] = {}
        self._heard: dict[bytes, bytes | None] | None = None

    def begun(self) -> list[str]:
        """The names of those that are there already."""
        return names(self.namespace)

    def end(self) -> None:
        """From now on whoever holds instances of this fleet already places none any more."""
        _kv._internal_kv_put(f"{ENDED}{self.namespace}", secrets.token_hex(8))

    def ended(self) -> str:
        """Another text each time that the fleet was ended."""
        return (_kv._internal_kv_get(f"{ENDED}{self.namespace}") or b"").decode()

    def ask(self, message: ForFleet, of: str) -> None:
        """Whoever holds the instances of this fleet does what `message` says; of those `of` one
        backend, or one gateway, the last one counts."""
        key = f"{ASKED}{self.namespace}/{message['type']}/{of}"
        _kv._internal_kv_put(key, json.dumps([secrets.token_hex(8), message]))

    def asked(self) -> list[ForFleet]:
        """What is asked by now and was not when this was called before."""
        keys = _kv._internal_kv_list(f"{ASKED}{self.namespace}/")
        found = {key: _kv._internal_kv_get(key) for key in keys}
        before, self._heard = self._heard, found
        if before is None:
            return []  # it was meant for whoever was here before
        news = [each for key, each in found.items() if each and before.get(key) != each]
        return [json.loads(each)[1] for each in news]

    def create(self, name: str, plan: InstancePlan, needs: Needs) -> None:
        """One more of that name, or the one that has it already."""
        actor: Any = _ray.remote(Holder)
        self._handles[name] = actor.options(
            name=name, namespace=self.namespace, get_if_exists=True, lifetime="detached",
            max_restarts=-1, max_concurrency=8,
            num_cpus=needs.cpus, num_gpus=needs.gpus, memory=needs.memory or None,
        ).remote(name, plan)  # fmt: skip

    def look(self, wanted: Iterable[str]) -> dict[str, Seen]:
        """How each of these is, what it wrote since told once. Any may be forgotten meanwhile."""
        found: dict[str, Seen] = {}
        for name in wanted:
            handle = self._handles.get(name)
            if handle is None:
                try:
                    handle = _ray.get_actor(name, namespace=self.namespace)
                except ValueError:
                    found[name] = Seen("gone")
                    continue
                self._handles[name] = handle
            if name not in self._asked:
                self._asked[name] = handle.look.remote(self._numbers.get(name, 0))
        names = {ref: name for name, ref in list(self._asked.items())}
        if names:
            ready, _ = _ray.wait(list(names), num_returns=len(names), timeout=LOOK_S)
            for ref in ready:
                name = names[ref]
                self._asked.pop(name, None)
                found[name] = self._seen[name] = self._read(name, ref)
        for name in wanted:
            if name not in found:
                before = self._seen.get(name, Seen("waiting"))
                told = before.told
                found[name] = Seen(before.state, {**told, "lines": []} if told else None)
        return found

    def look_within(self, wanted: Iterable[str], within_s: float) -> dict[str, Seen]:
        """How each of these is, once all that have a place have said so, or it is late."""
        end = time.monotonic() + within_s
        found = self.look(wanted)
        while time.monotonic() < end and any(e.state == "waiting" for e in found.values()):
            found = self.look(wanted)
        return found

    def _read(self, name: str, ref: Any) -> Seen:
        try:
            told: Told = _ray.get(ref)
        except ActorDiedError:
            return Seen("gone")
        except RayError:
            self._numbers.pop(name, None)  # the next one counts anew
            return Seen("away")
        self._numbers[name] = told["number"]
        return Seen("there", told)

    def stop(self, name: str, within_s: float) -> None:
        """Ends it: asked to at first. Returns when nobody has the name."""
        try:
            actor = self._handles.get(name) or _ray.get_actor(name, namespace=self.namespace)
        except ValueError:
            return
        if within_s and self._seen.get(name, Seen("waiting")).state == "there":
            try:
                _ray.get(actor.stop.remote(within_s), timeout=within_s + ASK_WITHIN_S)
            except (RayError, GetTimeoutError):
                pass
        _ray.kill(actor)

    def forget(self, name: str) -> None:
        """Nobody asks for that one any more."""
        for known in (self._handles, self._asked, self._seen, self._numbers):
            known.pop(name, None)
