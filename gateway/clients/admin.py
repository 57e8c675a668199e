"""How does a Python program talk to the admin API of a running gateway?

It speaks the admin API and nothing more: it keeps no state, retries nothing (an edit sent twice is
two edits) and prints nothing. It needs the standard library alone, so that the command line starts
fast; how one question crosses is `gateway.clients.admin_connection`. Programs import it from
`gateway.client`.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NotRequired, TypedDict, cast

from gateway.clients.admin_connection import (
    PLAIN,
    AdminConnection,
    Answer,
    Change,
    EventStream,
    segment,
)
from gateway.clients.errors import Json


class Weights(TypedDict):
    """One split; `effective` are the shares after health, `etag` binds an edit to this state."""

    revision: int
    route: str
    weights: dict[str, int]
    effective: dict[str, float]
    etag: str


class Applied(TypedDict):
    """Where an edit is in force. Of several gateways with one table also on how many of them, and
    the names of those that were there and have lost their lease."""

    workers: int
    gateways: NotRequired[int]
    lost: NotRequired[list[str]]


class WeightsEdit(TypedDict):
    """The answer to an edit of a split, once no new request is decided by the old one."""

    revision: int
    route: str
    previous: dict[str, int]
    weights: dict[str, int]
    applied: Applied
    dry_run: NotRequired[bool]


def revision_tag(revision: int) -> str:
    """The entity tag of the whole table at `revision`: for apply and restore."""
    return f'"{revision}"'


def events_since(last_s: int) -> str:
    """What is asked for events, those of the last `last_s` seconds first."""
    return f"/admin/v1/events?last={last_s}" if last_s else "/admin/v1/events"


class AdminClient(AdminConnection):
    """What can be asked of the admin API and told to it. Every method returns the decoded JSON
    answer; Refused when the gateway says no, Unreachable when it cannot be asked."""

    # -- reading

    def table(self) -> Json:
        """What is configured, and its revision."""
        return self._ask("GET", "/admin/v1/table").body

    def status(self) -> Json:
        """What is live: health, in-flight, rates, latencies, workers."""
        return self._ask("GET", "/admin/v1/status").body

    def weights(self, route: str) -> Weights:
        """The split of `route`, as configured and after health."""
        answer = self._ask("GET", f"/admin/v1/routes/{segment(route)}/weights")
        return cast(Weights, {**answer.body, "etag": answer.etag})

    def backend(self, backend: str) -> Answer:
        """`backend` as it was written, and its entity tag."""
        return self._ask("GET", f"/admin/v1/backends/{segment(backend)}", has="")

    def logs(self, backend: str, *, lines: int = 100, after: int = 0) -> list[Json]:
        """The last lines that instances of `backend` wrote, of those numbered above `after`."""
        query = {"lines": str(lines), **({"after": str(after)} if after else {})}
        path = f"/admin/v1/backends/{segment(backend)}/logs"
        answer = self._ask("GET", path, query=query, has="lines")
        return list(answer.body["lines"])

    def keys(self) -> Json:
        """The keys by their names, without any secret."""
        return self._ask("GET", "/admin/v1/keys").body

    def key_tag(self, name: str) -> str:
        """The entity tag of key `name`, which an edit of it is bound to."""
        return self._ask("GET", f"/admin/v1/keys/{segment(name)}", has="").etag

    def series(
        self,
        *,
        routes: Iterable[str] = (),
        backends: Iterable[str] = (),
        step_s: int = 10,
        last_s: int = 3600,
    ) -> Json:
        """The last hour of the gateway and of what is named: rates by kind of answer, and
        percentiles, one number for each step."""
        query = {"step": str(step_s), "last": str(last_s)}
        named = {"route": list(routes), "backend": list(backends)}
        return self._ask("GET", "/admin/v1/series", query={**query, **named}, has="step_s").body

    def history(self, limit: int | None = None, before: int | None = None) -> Json:
        """The edits so far, newest first: at most `limit`, up to 1000, and older than `before`."""
        asked = {"limit": limit, "before": before}
        query = {name: str(number) for name, number in asked.items() if number is not None}
        return self._ask("GET", "/admin/v1/history", query=query, has="revisions").body

    def revision(self, revision: int) -> Json:
        """One edit: who, when, why and the difference it made."""
        return self._ask("GET", f"/admin/v1/history/{revision}").body

    def events(self, *, last_s: int = 0) -> Iterator[Json]:
        """Edits, health and ejections as they happen, until the gateway goes away; before them
        those of the last `last_s` seconds, of which it knows an hour."""
        stream = EventStream(self, events_since(last_s))
        try:
            yield from stream
        finally:
            stream.close()

    # -- writing

    def set_weights(
        self, route: str, weights: Mapping[str, int], change: Change = PLAIN, *, whole: bool = False
    ) -> WeightsEdit:
        """Edits the split of `route`: backends not named keep their weight unless `whole`."""
        path = f"/admin/v1/routes/{segment(route)}/weights"
        method = "PUT" if whole else "PATCH"
        return cast(WeightsEdit, self._ask(method, path, dict(weights), change).body)

    def apply(
        self, content: bytes, change: Change = PLAIN, *, media_type: str = "application/yaml"
    ) -> Json:
        """Applies a whole file's content, three ways with what was edited since."""
        return self._ask("POST", "/admin/v1/apply", content, change, media_type=media_type).body

    def put_route(self, route: str, spec: Mapping[str, Any], change: Change = PLAIN) -> Json:
        return self._ask("PUT", f"/admin/v1/routes/{segment(route)}", dict(spec), change).body

    def delete_route(self, route: str, change: Change = PLAIN) -> Json:
        return self._ask("DELETE", f"/admin/v1/routes/{segment(route)}", None, change).body

    def patch_backend(self, backend: str, patch: Mapping[str, Any], change: Change = PLAIN) -> Json:
        """Changes parts of `backend` (JSON merge patch: null removes a key)."""
        return self._ask(
            "PATCH", f"/admin/v1/backends/{segment(backend)}", dict(patch), change
        ).body

    def restart_backend(self, backend: str, change: Change = PLAIN) -> Json:
        """Has each instance of `backend` ended and started again, one after the other."""
        return self._ask("POST", f"/admin/v1/backends/{segment(backend)}/restart", {}, change).body

    def start_backend(self, backend: str, change: Change = PLAIN) -> Json:
        """Loads `backend`, which starts on demand, before any request asks for it."""
        return self._ask("POST", f"/admin/v1/backends/{segment(backend)}/start", {}, change).body

    def stop_backend(self, backend: str, change: Change = PLAIN) -> Json:
        """Unloads `backend`, which starts on demand, once it has finished what it has."""
        return self._ask("POST", f"/admin/v1/backends/{segment(backend)}/stop", {}, change).body

    def delete_backend(self, backend: str, change: Change = PLAIN) -> Json:
        return self._ask("DELETE", f"/admin/v1/backends/{segment(backend)}", None, change).body

    def instance_action(
        self, backend: str, instance: str, action: str, change: Change = PLAIN
    ) -> Json:
        """`action` is drain, resume, disable or enable."""
        path = f"/admin/v1/backends/{segment(backend)}/instances/{segment(instance)}/{action}"
        return self._ask("POST", path, {}, change).body

    def rollout(self, route: str) -> Json:
        """Where the rollout of `route` is, its evidence and its plan; `etag` binds a command to
        the state it is in."""
        path = f"/admin/v1/routes/{segment(route)}/rollout"
        answer = self._ask("GET", path, query={"plan": "true"}, has="state")
        return {**answer.body, "etag": answer.etag}

    def mirror(self, route: str) -> Json:
        """How often the mirror of `route` agrees with what clients get, and where it does not."""
        return self._ask("GET", f"/admin/v1/routes/{segment(route)}/mirror", has="verdicts").body

    def begin_rollout(self, route: str, plan: Mapping[str, Any], change: Change = PLAIN) -> Json:
        """Begins a rollout; its first step is in force when this returns."""
        path = f"/admin/v1/routes/{segment(route)}/rollout"
        return self._ask("PUT", path, dict(plan), change, has="state").body

    def command_rollout(self, route: str, word: str, change: Change = PLAIN) -> Json:
        """`word` is pause, resume, promote, approve or abort."""
        path = f"/admin/v1/routes/{segment(route)}/rollout/{word}"
        return self._ask("POST", path, {}, change, has="state").body

    def forget_rollout(self, route: str, change: Change = PLAIN) -> Json:
        """Forgets a rollout that has ended."""
        path = f"/admin/v1/routes/{segment(route)}/rollout"
        return self._ask("DELETE", path, None, change, has="state").body

    def create_key(self, name: str, spec: Mapping[str, Any], change: Change = PLAIN) -> Json:
        """Makes key `name`; `key` of the answer is its secret, which nobody is told again."""
        return self._ask("POST", "/admin/v1/keys", {"name": name, **spec}, change).body

    def key_action(self, name: str, action: str, change: Change = PLAIN) -> Json:
        """`action` is rotate, whose answer holds a further secret, or retire."""
        return self._ask("POST", f"/admin/v1/keys/{segment(name)}/{action}", {}, change).body

    def delete_key(self, name: str, change: Change = PLAIN) -> Json:
        return self._ask("DELETE", f"/admin/v1/keys/{segment(name)}", None, change).body

    def restore(self, revision: int, change: Change = PLAIN) -> Json:
        """Goes back to `revision`, as a new revision."""
        return self._ask("POST", f"/admin/v1/history/{revision}/restore", {}, change).body
