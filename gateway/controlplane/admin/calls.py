"""What does one admin request ask for, and under which conditions?

A `Call` reads the common parts of a request: its body, `If-Match`, `?dry_run`, the reason,
who asks. Preconditions are judged against the state that the publisher holds under its lock,
so that nothing can change between the judgement and the edit. It edits nothing itself.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson
from aiohttp import hdrs, web

from gateway.controlplane.admin.problems import Problem
from gateway.controlplane.admin.security import Role, Tokens
from gateway.controlplane.admin.strict_json import loads
from gateway.controlplane.configuration.settings import Settings
from gateway.controlplane.events import Events
from gateway.controlplane.mirrors.book import Mirrors, nobody
from gateway.controlplane.published import Published
from gateway.controlplane.publisher import Publisher
from gateway.controlplane.rollouts.commands import Commands
from gateway.controlplane.rollouts.controller import Rollouts
from gateway.controlplane.store.store import checksum
from gateway.controlplane.watch.fleet_view import FleetView
from gateway.controlplane.watch.last_hour import LastHour
from gateway.controlplane.watch.status_view import StatusView
from gateway.core.faults import Fault, Invalid, did_you_mean
from gateway.core.table import Document

Json = Any
T = TypeVar("T")
LARGE = 64 << 10  # bytes of a body, from which on it is read in a thread
MAX_REASON = 500  # characters
JSON_TYPES = ("application/json", "application/merge-patch+json")
# What a page elsewhere may send without asking first, so no write reads it, not even empty.
FORM_TYPES = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data")
YAML_TYPES = ("application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml")


@dataclass(frozen=True, slots=True)
class AdminParts:
    """What the admin API is put together from.

    `metrics` gives content type and content of a scrape for the scraper's Accept header;
    `ready` says whether requests can be served; `fleet` knows the instance processes,
    where some are held to the table; `keys_used` tells of each key when and how it is used;
    `hour` keeps what was counted lately; `listen` is the URL at which requests are taken.
    """

    publisher: Publisher
    settings: Settings
    view: StatusView
    events: Events
    tokens: Tokens
    metrics: Callable[[str], Awaitable[tuple[str, bytes]]]
    ready: Callable[[], bool]
    rollouts: Rollouts
    rollout_commands: Commands
    mirrors: Mirrors = field(default_factory=nobody)
    hour: LastHour = field(default_factory=LastHour)
    listen: str = ""
    fleet: FleetView | None = None
    keys_used: Callable[[], Awaitable[Mapping[str, Json]]] | None = None


PARTS: web.AppKey[AdminParts] = web.AppKey("parts", AdminParts)
REQUEST_ID = web.RequestKey("request_id", str)
ROLE: web.RequestKey[Any] = web.RequestKey("role", str)


async def aside(size: int, work: Callable[[], T]) -> T:
    """The result of `work`, done in a thread if `size` bytes of it would hold up the loop."""
    return work() if size < LARGE else await asyncio.to_thread(work)


def etag(resource: Json) -> str:
    """The strong entity tag of a resource: equal for equal content, whoever wrote it."""
    return f'"{checksum(resource)[:24]}"'


def seal(body: Json) -> str:
    """The entity tag of what is measured and not kept: no two answers need be alike."""
    return f'"{hashlib.sha256(orjson.dumps(body)).hexdigest()[:24]}"'


class Call:
    """One request to the admin API."""

    __slots__ = ("parts", "request")

    def __init__(self, request: web.Request) -> None:
        self.request = request
        self.parts = request.app[PARTS]

    @property
    def publisher(self) -> Publisher:
        return self.parts.publisher

    @property
    def who(self) -> str:
        """Whom the history names: the role of the token and the address it came from."""
        name = self.role if self.parts.tokens.required else "local"
        return f"{name}@{self.request.remote or 'unix'}"

    @property
    def role(self) -> Role:
        """What whoever asks may do."""
        role: Role = self.request[ROLE]
        return role

    def part(self, name: str) -> str:
        """A variable part of the path, decoded once."""
        return self.request.match_info[name]

    @property
    def why(self) -> str:
        """The reason given in X-Change-Reason: one printable line; "" for none."""
        reason = self.request.headers.get("X-Change-Reason", "").strip(" \t")
        if len(reason) > MAX_REASON or not reason.isprintable():
            raise Problem(
                "bad_request", f"X-Change-Reason is one printable line of up to {MAX_REASON}"
            )
        return reason

    @property
    def dry_run(self) -> bool:
        return self.flag("dry_run")

    def tried(self, body: dict[str, Json]) -> dict[str, Json]:
        """What is answered of a write: `body`, which says so where it was but tried."""
        return {**body, "dry_run": True} if self.dry_run else body

    def flag(self, name: str) -> bool:
        """A truth in the query; anything but true and false is refused."""
        values = self.request.query.getall(name, ["false"])
        if len(values) != 1 or values[0] not in ("true", "false"):
            raise Problem("bad_request", f"?{name} is true or false")
        return values[0] == "true"

    def check_query(self) -> None:
        """Refuses what no write knows: `?dryrun=true` must not turn out to be the real thing."""
        for name in self.request.query:
            if name != "dry_run":
                hint = did_you_mean(name, ["dry_run"])
                raise Problem("bad_request", f"no ?{name[:60]} here{f'; {hint}' if hint else ''}")

    def number(self, name: str, default: int | None, *, most: int) -> int | None:
        """A whole number from 1 to `most` in the query."""
        text = self.request.query.get(name)
        if text is None:
            return default
        if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:20]) <= most:
            raise Problem("bad_request", f"?{name} is a whole number from 1 to {most}")
        return int(text)

    async def json(self) -> Json:
        """The body as strict JSON; NotJson or a 415 say why it cannot be read."""
        self._require_type(JSON_TYPES)
        body = await self.request.read()
        return await aside(len(body), lambda: loads(body))

    async def mapping(self) -> dict[str, Json]:
        """The body, which must be a JSON object."""
        value = await self.json()
        if not isinstance(value, dict):
            raise Invalid([Fault("", "type", "must be an object")])
        return value

    async def spare(self) -> None:
        """Refuses a body where none is wanted; nothing and `{}` say the same."""
        body = await self.request.read()
        if body or self.request.content_type in FORM_TYPES:
            self._require_type(JSON_TYPES)
        if body and await aside(len(body), lambda: loads(body)) != {}:
            raise Invalid([Fault("", "unexpected", "takes no body")])

    @property
    def is_yaml(self) -> bool:
        return self.request.content_type in YAML_TYPES

    def _require_type(self, accepted: tuple[str, ...]) -> None:
        stated = self.request.headers.get(hdrs.CONTENT_TYPE)
        charset = (self.request.charset or "utf-8").lower()
        if stated is None or self.request.content_type not in accepted:
            raise Problem("unsupported_media_type", f"send {accepted[0]}")
        if charset not in ("utf-8", "utf8") or hdrs.CONTENT_ENCODING in self.request.headers:
            raise Problem("unsupported_media_type", "send UTF-8 as it is, not encoded again")

    async def yaml_text(self) -> str:
        """The body as text, which must be YAML by its type and UTF-8."""
        self._require_type(YAML_TYPES)
        try:
            return (await self.request.read()).decode("utf-8-sig")
        except UnicodeDecodeError:
            raise Problem("not_json", "the body is not UTF-8") from None

    async def edited(
        self, edit: Callable[[Document], Document], of: Callable[[Document], Json]
    ) -> Published:
        """What came of `edit`, made if what `of` finds is as the request's condition says."""

        def guarded(document: Document) -> Document:
            # A condition counts only where the edit would be made without it (RFC 9110, 13.2.1).
            after = edit(document)
            self.guard(of(document))
            return after

        return await self.publisher.publish(
            guarded, who=self.who, why=self.why, dry_run=self.dry_run
        )

    def shown(self, body: Json, tag: str, revision: int | None = None) -> web.Response:
        """`body`, whose tag tells all of it; 304 for a reader who has it already."""
        known = self.request.headers.get(hdrs.IF_NONE_MATCH)
        if known is None or not _matches(known.replace("W/", ""), tag):
            return answer(body, tag=tag, revision=revision)
        return web.Response(status=304, headers=_marks(tag, revision))

    def guard(self, current: Json, tag: str | None = None) -> None:
        """Judges If-Match and If-None-Match against `current` (None: there is nothing).

        412 carries the current state; 428 says that a condition is required.
        """
        tag = tag or (None if current is None else etag(current))
        tags = self.request.headers.getall(hdrs.IF_MATCH, [])
        unless = self.request.headers.get(hdrs.IF_NONE_MATCH)
        if tags and not _matches(",".join(tags), tag):
            raise _changed(current, tag)
        if unless is not None and _matches(unless, tag):
            raise _changed(current, tag)
        needed = self.parts.settings.require_if_match and current is not None
        if needed and not tags:
            raise Problem(
                "precondition_required", "send If-Match with the ETag that you read", more={}
            )


def _matches(listed: str, tag: str | None) -> bool:
    tags = [each.strip() for each in listed.split(",")]
    return tag is not None and ("*" in tags or tag in tags)


def _changed(current: Json, tag: str | None) -> Problem:
    return Problem(
        "precondition_failed",
        "the resource is not what the condition says; its current state is in `current`",
        more={"current": current, "etag": tag},
        headers={"ETag": tag} if tag else {},
    )


def answer(
    body: Json,
    *,
    status: int = 200,
    tag: str | None = None,
    revision: int | None = None,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    """`body` as JSON with its entity tag and the revision it belongs to."""
    more = {**(headers or {}), **_marks(tag, revision)}
    return web.Response(
        body=orjson.dumps(body), status=status, content_type="application/json", headers=more
    )


def _marks(tag: str | None, revision: int | None) -> dict[str, str]:
    marks = {"ETag": tag} if tag else {}
    return marks if revision is None else {**marks, "X-Headgate-Revision": str(revision)}


def applied(published: Published) -> dict[str, Json]:
    """Where the edit is in force."""
    where = published.everywhere
    if where is None:
        return {"workers": published.workers}
    return {"gateways": where.gateways, "workers": where.workers, "lost": list(where.lost)}


def outcome(published: Published, **what: Json) -> dict[str, Json]:
    """What every write answers: the revision, what it was about, the difference."""
    body: dict[str, Json] = {"revision": published.revision, **what}
    body["diff"] = [change.as_json() for change in published.diff]
    body["applied"] = applied(published)
    if published.serves:
        body["serves"] = dict(published.serves)
    if published.dry_run:
        body["dry_run"] = True
    return body
