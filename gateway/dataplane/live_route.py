"""Which backend does one route choose for a request?

By override, sticky key or ticket, among those that can serve: what changes with health is a cache
beside the split, renewed when the plane's generation has moved. Choosing the instance inside the
backend is not done here.
"""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Final

from gateway.core.errors import ClientFault, NoRoom
from gateway.core.header_rules import NO_RULES
from gateway.core.heads import RequestHead
from gateway.core.lines import OVERRIDE
from gateway.core.splitting import Split, Spread, sticky_backend
from gateway.core.table import Route, Sticky
from gateway.dataplane.backend import LiveBackend
from gateway.dataplane.door import bucket_of
from gateway.dataplane.instance import LiveInstance
from gateway.dataplane.shaping import Shape
from gateway.dataplane.shared import Shared
from gateway.telemetry.metrics import Cell

_MAX_GONE: Final = 64  # instances that a route remembers and that may be gone, before it looks


class LiveRoute:
    """One route of one snapshot, and of the next ones until it is edited, with all it needs to
    decide."""

    __slots__ = (
        "_at", "_by_head", "_generation", "_open", "_shared", "asks", "backends", "bucket",
        "deadline_s", "fallback", "judge", "max_body", "mirror", "retries", "route", "shape",
        "split", "spread",
    )  # fmt: skip

    def __init__(
        self, shared: Shared, route: Route, spread: Spread, live: Mapping[str, LiveBackend]
    ) -> None:
        self._shared = shared
        self.route = route
        # Who is let in is told to instances as the route has it: that is asked where rules are.
        rules = route.headers
        self.asks = bool(route.access) or (rules is not None and rules.request != NO_RULES)
        self.shape = Shape.of(route)
        self.bucket = bucket_of(shared, "route", route.name, route.limits)
        # What each request asks of the route, out of its own: a look by name costs much more.
        self.retries = route.retries
        self.max_body, self.deadline_s = route.max_body, route.deadline_s
        self._by_head = bool(route.override) or route.sticky is not None
        self.spread = spread
        self.split = Split.of(route.split)
        self.backends: dict[str, LiveBackend] = {name: live[name] for name, _ in route.split}
        fallback = route.on_unavailable.backend
        self.fallback = live[fallback] if fallback else None
        self.mirror = live.get(route.mirror.backend) if route.mirror else None
        if route.mirror is not None and route.mirror.compare is not None:
            shared.outbox.wish.set()
        self._at: dict[LiveInstance, AtInstance] = {}
        self.judge = shared.judges.get(route.name)
        self._open = self.split
        self._generation = 0

    def choose(self, head: RequestHead) -> LiveBackend:
        """The backend for one request, by override, sticky key or ticket; raises NoRoom."""
        generation = self._shared.generation
        if self._generation != generation:
            self._renew(generation)
        split = self._open
        name = None
        if self._by_head:
            if self.route.override and OVERRIDE in head.known:
                return self._overridden(head.known[OVERRIDE])
            if self.route.sticky is not None:
                name = self._stuck(head, split)
        if name is None:
            name = split.sole or split.pick(self.spread.next())
        if name is None:
            return self._nobody()
        backend = self.backends[name]
        taker = self._taker(backend)
        if self.judge is not None and taker is backend:  # what the fallback does is neither's
            key = -1 if self.route.sticky is None else self.key_hash(head)
            self.judge.decide(name, split, key)
        return taker

    def key_hash(self, head: RequestHead) -> int:
        """What stands for the request's sticky key where keys are counted; -1 without one."""
        sticky = self.route.sticky
        key = sticky_key(head, sticky) if sticky is not None else None
        return int.from_bytes(blake2b(key, digest_size=6).digest()) if key else -1

    def _taker(self, backend: LiveBackend) -> LiveBackend:
        """Who takes what falls to `backend`; raises NoRoom."""
        if backend.vacant and self.fallback is not None and self.fallback.available:
            return self.fallback
        return backend if backend.available else self._unavailable()

    def after(self, failed: LiveBackend, head: RequestHead) -> LiveBackend | None:
        """Who gets a request at which `failed` has failed, as `on_unavailable` says; None: nobody.

        By chance, not by ticket: tickets that some requests take twice would be missing in the
        shares of the others.
        """
        generation = self._shared.generation
        if self._generation != generation:
            self._renew(generation)
        policy = self.route.on_unavailable.policy
        if policy == "fail" or (self.route.override and OVERRIDE in head.known):
            return None
        if policy == "fallback":
            fallback = self.fallback
            return fallback if fallback is not None and fallback is not failed else None
        others = frozenset(name for name, each in self.backends.items() if each is not failed)
        split = self._open.among(others)
        name = self._stuck(head, split) if self.route.sticky is not None else None
        if name is None:
            name = split.pick(self._shared.random())
        return self.backends[name] if name is not None else None

    def _stuck(self, head: RequestHead, split: Split) -> str | None:
        """The backend among those of `split` that the request's sticky key belongs to."""
        assert self.route.sticky is not None
        key = sticky_key(head, self.route.sticky)
        return sticky_backend(self.route.name, key, split.weights) if key else None

    def check_open(self, head: RequestHead, remaining_s: float, now: float) -> None:
        """Raises the NoRoom that a request would meet now, whatever its ticket: when nobody
        serves, and when everybody it may fall to would refuse it."""
        generation = self._shared.generation
        if self._generation != generation:
            self._renew(generation)
        refused: NoRoom | None = None
        for backend in self._possible(head):
            try:
                refused = self._taker(backend).would_refuse(remaining_s, now)
            except NoRoom as fault:
                refused = fault
            if refused is None:
                return
        if refused is None:
            self._nobody()
        else:
            raise refused

    def _possible(self, head: RequestHead) -> list[LiveBackend]:
        """The backends that a request may fall to, as far as known without a ticket."""
        if self.route.override and OVERRIDE in head.known:
            return [self._overridden(head.known[OVERRIDE])]
        name = self._stuck(head, self._open) if self.route.sticky is not None else None
        if name is not None:
            return [self.backends[name]]
        return [self.backends[each] for each, weight in self._open.weights if weight]

    def _renew(self, generation: int) -> None:
        self._generation = generation
        if self.route.on_unavailable.policy == "redistribute":
            serve = {name: each.vacant for name, each in self.backends.items() if each.available}
            takes = frozenset(name for name, is_vacant in serve.items() if not is_vacant)
            self._open = self.split.among(takes)
            if self._open.pick(0) is None:
                self._open = self.split.among(frozenset(serve))

    def _overridden(self, wanted: bytes) -> LiveBackend:
        backend = self.backends.get(wanted.decode("latin-1"))
        if backend is None:
            raise ClientFault("X-Headgate-Backend names no backend of this route.")
        if not backend.available:
            raise NoRoom("No instance of the backend asked for can take the request.")
        return backend

    def _nobody(self) -> LiveBackend:
        if self.split.pick(0) is None:
            raise NoRoom("Every backend of the route has weight 0.", "no_weight")
        return self._unavailable()

    def _unavailable(self) -> LiveBackend:
        fallback = self.fallback
        if fallback is not None and fallback.available:
            return fallback
        asked = [self.backends[name] for name, weight in self.split.weights if weight]
        if asked and all(each.start.has_failed for each in asked):
            raise asked[0].start.failure()
        raise NoRoom("No instance can take the request now.")

    def at(self, instance: LiveInstance) -> "AtInstance":
        """What this route has at hand for an answer of `instance`."""
        found = self._at.get(instance)
        if found is None:
            if len(self._at) >= _MAX_GONE:
                self._at = {each: kept for each, kept in self._at.items() if not each.gone}
            found = self._at[instance] = AtInstance(self._shared, self.route.name, instance)
        return found


class AtInstance:
    """Of one route and one instance: where its requests there are counted (`cell`), and the
    response lines that say who answered, up to the revision (`lines`)."""

    __slots__ = ("cell", "lines")

    def __init__(self, shared: Shared, route: str, instance: LiveInstance) -> None:
        backend = instance.backend.name
        self.cell: Cell = shared.counters.cell(route, backend, instance.address)
        self.lines = b"Via: 1.1 %b\r\n" % shared.node
        if shared.options.expose:
            self.lines += (
                f"X-Headgate-Route: {route}\r\n"
                f"X-Headgate-Backend: {backend}\r\n"
                f"X-Headgate-Instance: {instance.address}\r\n"
            ).encode()


def sticky_key(head: RequestHead, sticky: Sticky) -> bytes | None:
    """What the split of this request sticks to; None when the client did not send it."""
    if sticky.header is not None:
        value = head.get(sticky.header)
        return value.encode("latin-1") if value else None
    wanted = sticky.cookie
    for pair in (head.get("cookie") or "").replace(",", ";").split(";"):
        name, _, value = pair.strip().partition("=")
        if name == wanted and value:
            return value.encode("latin-1")
    return None
