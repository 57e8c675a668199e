"""Rollouts in etcd: who drives each, and what is known of it.

`rollouts/<route>` names the gateway that drives, under its lease; `rollout-states/<route>` is what
it wrote down, which outlives it. It writes only while it holds that word: one transaction says
both. A rollout that has ended is nobody's any more.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.controlplane.store.etcd import client as etcd
from gateway.controlplane.store.etcd.client import Client, Entry
from gateway.controlplane.store.etcd.layout import Keys, name_of
from gateway.controlplane.store.etcd.own_loop import OwnLoop
from gateway.controlplane.store.store import StateRefused, Unavailable

LIVE = ("running", "paused", "waiting")


def unpacked(states: Mapping[str, bytes]) -> dict[str, Any]:
    """What is kept of each rollout; StateRefused for what is none."""
    found = dict[str, Any]()
    for route, each in states.items():
        try:
            found[route] = orjson.loads(zlib.decompress(each))
        except (zlib.error, ValueError) as error:
            why = f"etcd: the key `rollout-states/{route}` cannot be read ({error})"
            raise StateRefused(why) from None
    return found


@dataclass(slots=True)
class Claim:
    """Under which lease a rollout is driven, and etcd's revisions when that word and what is kept
    of it were written; 0: there is none."""

    lease: int
    word: int
    kept: int


class RolloutKeys:
    """What keeps rollouts (`rollouts.keeping.Keeper`), for the gateway `node`. `lease` is the lease
    that it holds now, 0 for none."""

    def __init__(
        self, loop: OwnLoop, client: Client, keys: Keys, node: str, lease: Callable[[], int]
    ) -> None:
        self._loop, self._client, self._keys = loop, client, keys
        self._node, self._lease = node.encode(), lease
        self._claims: dict[str, Claim] = {}
        self._written: dict[str, bytes] = {}

    def drives(self, route: str) -> bool:
        """Whether this gateway drives the rollout of `route`, as far as it knows."""
        held = self._claims.get(route)
        return held is not None and held.lease == self._lease() != 0

    def load(self) -> dict[str, Any]:
        """What is kept; nothing while etcd is away, for the watch tells it later."""
        prefix = self._keys.kept_rollouts
        asked = [etcd.get(prefix, etcd.beyond(prefix))]
        try:
            (found,) = self._loop.call(etcd.transact(self._client, asked)).found
        except Unavailable:
            return {}
        kept = {name_of(each.key, prefix): each.value for each in found}
        return unpacked({route: value for route, value in kept.items() if route})

    def claim(self, route: str) -> str:
        """Empty when this gateway drives that rollout from now on; else the name of who does."""
        return self._loop.call(self._claim(route))

    async def _claim(self, route: str) -> str:
        if self.drives(route):
            return ""
        lease, key, kept = self._lease(), self._key(route), self._kept(route)
        if not lease:
            raise Unavailable("this gateway does not hold its lease in etcd")
        written = 0
        while True:
            answer = await etcd.transact(
                self._client,
                [etcd.put(key, self._node, lease), etcd.get(kept)],
                when=[etcd.unchanged(key, written)],
                otherwise=[etcd.get(key)],
            )
            if answer.succeeded:
                self._claims[route] = Claim(lease, answer.revision, _written(answer.found[0]))
                self._written.pop(route, None)
                return ""
            (found,) = answer.found
            if found and found[0].value != self._node:
                return name_of(found[0].value, b"") or "?"
            # Of this gateway, before it lost its lease or its control process.
            written = _written(found)

    def keep(self, rollouts: Mapping[str, Any]) -> None:
        """Writes those that this gateway drives, where they are others than before."""
        packed = {
            route: zlib.compress(orjson.dumps(each))
            for route, each in rollouts.items()
            if self.drives(route)
        }
        for route, value in packed.items():
            if self._written.get(route) != value:
                ended = rollouts[route]["state"] not in LIVE and not rollouts[route]["move"]
                self._loop.call(self._write(route, value, ended=ended))
        for route in [each for each in self._claims if each not in rollouts]:
            if self.drives(route):
                self._loop.call(self._write(route, None, ended=True))

    def make_room(self) -> bool:
        """There is none to give: what etcd has room for is not this gateway's to say."""
        return False

    async def _write(self, route: str, value: bytes | None, *, ended: bool) -> None:
        key, kept, claim = self._key(route), self._kept(route), self._claims[route]
        words = [etcd.delete(kept) if value is None else etcd.put(kept, value)]
        words += [etcd.delete(key)] if ended else []
        while True:
            # Both: it may have been sent twice, and arrive once more when newer things are kept.
            held = [etcd.unchanged(key, claim.word), etcd.unchanged(kept, claim.kept)]
            answer = await etcd.transact(
                self._client, words, when=held, otherwise=[etcd.get(key), etcd.get(kept)]
            )
            if answer.succeeded:
                at = answer.revision
                break
            word, found = answer.found
            at, is_there = _written(found), found[0].value if found else None
            if is_there == value and _written(word) == (0 if ended else claim.word):
                break  # at a first try, of which no answer came
            if _written(word) != claim.word:
                del self._claims[route]
                raise Unavailable(f"another gateway drives the rollout of {route!r} now")
            claim.kept = at  # by an own one before, of which no answer came
        if value is not None:
            self._written[route], claim.kept = value, at
        if ended:
            del self._claims[route]

    def _key(self, route: str) -> bytes:
        return self._keys.rollouts + route.encode()

    def _kept(self, route: str) -> bytes:
        return self._keys.kept_rollouts + route.encode()


def _written(found: Sequence[Entry]) -> int:
    """When what was `found` at a key was written; 0: it is not there."""
    return found[0].revision if found else 0
