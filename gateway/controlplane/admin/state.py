"""The table as a whole, its history, and what is live: how is each read and written?

Files are applied three ways, old revisions come back as new ones, and events are streamed
as they happen. What the numbers mean is the data plane's business.
"""

import asyncio
import os
import zlib
from typing import Any

import orjson
from aiohttp import hdrs, web

from gateway.controlplane.admin.calls import JSON_TYPES, LARGE, Call, answer, aside, outcome, seal
from gateway.controlplane.admin.problems import Problem
from gateway.controlplane.configuration.reading import ConfigurationError, examine, parse
from gateway.controlplane.configuration.settings import Settings, differing
from gateway.controlplane.events import Event, Subscription
from gateway.controlplane.store.store import Summary
from gateway.core.compressing import GZIP, MIN_SIZE, chosen
from gateway.core.deltas import SPARE
from gateway.core.edits import let_in
from gateway.core.faults import Fault, Invalid
from gateway.core.merging import NOT_SERVED
from gateway.core.table import Document, Table

Json = Any
_KEEP_ALIVE_S = 15.0
MAX_LAST_S = 3600
_GZIP_FORM = 31  # of zlib's: the largest window, and gzip's head and end around it


def table_tag(table: Table) -> str:
    return f'"{table.revision}"'


def table_body(table: Table) -> Json:
    """What `GET /admin/v1/table` answers: the document of `table` and its revision."""
    document = table.document
    spare = {section: document[section] for section in SPARE if document.get(section)}
    return {
        "revision": table.revision,
        "backends": document.get("backends") or {},
        "routes": document.get("routes") or {},
        **spare,
    }


async def get_table(call: Call) -> web.Response:
    table = call.publisher.table
    return call.shown(table_body(table), table_tag(table), table.revision)


async def apply_file(call: Call) -> web.Response:
    """Brings a whole file in, three ways: what the file changed wins, other edits stay."""
    settings, file = await _file(call)
    applied = await call.publisher.apply(
        file,
        who=call.who,
        why=call.why,
        dry_run=call.dry_run,
        guard=lambda table: call.guard(table_body(table), table_tag(table)),
    )
    published = applied.published
    body = outcome(
        published,
        previous=published.previous.revision,
        overridden=[change.as_json() for change in applied.overridden],
        unserved=[change.as_json() for change in published.diff if change.note == NOT_SERVED],
        restart=differing(settings, call.parts.settings, os.environ),
    )
    if published.opened:
        body["opened"] = published.opened
    return answer(body, tag=f'"{published.revision}"', revision=published.revision)


async def _file(call: Call) -> tuple[Settings, Document]:
    """What the file in the body says; its settings are checked and otherwise left alone."""
    if call.is_yaml:
        text = await call.yaml_text()
        try:
            return await aside(len(text), lambda: parse(text))
        except ConfigurationError as error:
            raise Invalid(
                Fault(
                    problem.pointer,
                    "invalid",
                    f"line {problem.line}: {problem.detail}" if problem.line else problem.detail,
                    problem.hint,
                )
                for problem in error.problems
            ) from None
    if call.request.content_type not in JSON_TYPES:
        raise Problem("unsupported_media_type", "send application/yaml or application/json")
    value = await call.mapping()
    size = call.request.content_length or LARGE
    settings, document, faults = await aside(size, lambda: examine(value))
    if faults or settings is None:
        raise Invalid(faults)
    return settings, document


async def get_history(call: Call) -> web.Response:
    """The edits so far, newest first, one page at a time."""
    limit = call.number("limit", 100, most=1000) or 100
    before = call.number("before", None, most=2**53)
    page = await call.publisher.history(limit=limit, before=before)
    body = {
        "revisions": [_summary(edit) for edit in page.edits],
        "next": page.edits[-1].number if page.more else None,
    }
    newest = call.publisher.table.revision
    return call.shown(body, f'"{newest}"', newest)


async def get_revision(call: Call) -> web.Response:
    kept = await call.publisher.revision(_number(call))
    body = {**_summary(kept), "document": orjson.Fragment(kept.content)}
    return call.shown(body, f'"{kept.number}"')


async def restore_revision(call: Call) -> web.Response:
    """Makes the document of an earlier revision current again, as a new revision; with who is let
    in by it that was kept out."""
    number, dry_run, why = _number(call), call.dry_run, call.why
    await call.publisher.revision(number)
    table = call.publisher.table
    expected = table.revision if call.request.headers.get("If-Match") else None
    call.guard(table_body(table), table_tag(table))
    published = await call.publisher.restore(
        number, who=call.who, why=why, dry_run=dry_run, expected=expected
    )
    body = outcome(published, restored=number, previous=published.previous.revision)
    if opened := list(let_in(published.previous.document, published.table.document)):
        body["opened"] = opened
    return answer(body, tag=f'"{published.revision}"', revision=published.revision)


def _number(call: Call) -> int:
    text = call.part("revision")
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise Problem("not_found", "a revision is a whole number")
    return int(text)


def _summary(revision: Summary) -> Json:
    return {
        "revision": revision.number,
        "time": revision.time,
        "who": revision.who,
        "why": revision.why,
        "source": revision.source,
        "diff": list(revision.diff),
    }


async def get_status(call: Call) -> web.Response:
    table = call.publisher.table
    live = await call.parts.view.status()
    body = {"revision": table.revision, "role": call.role, "listen": call.parts.listen, **live}
    return answer(body, tag=seal(body), revision=table.revision)


async def get_metrics(call: Call) -> web.Response:
    """All metrics, in the format that the scraper likes best, by gzip for who takes it."""
    asked = call.request.headers
    kind, body = await call.parts.metrics(asked.get(hdrs.ACCEPT, ""))
    headers = {hdrs.CONTENT_TYPE: kind, hdrs.VARY: f"{hdrs.ACCEPT}, {hdrs.ACCEPT_ENCODING}"}
    if len(body) >= MIN_SIZE and chosen(asked.get(hdrs.ACCEPT_ENCODING), (GZIP,)) is not None:
        # In a thread: ten thousand consumers make megabytes, and a scraper is in no hurry.
        body = await asyncio.to_thread(zlib.compress, body, zlib.Z_BEST_SPEED, _GZIP_FORM)
        headers[hdrs.CONTENT_ENCODING] = GZIP
    return web.Response(body=body, headers=headers)


async def get_livez(call: Call) -> web.Response:
    return answer({"status": "ok"})


async def get_readyz(call: Call) -> web.Response:
    if not call.parts.ready():
        raise Problem("not_ready", "no worker serves the current table yet")
    return answer({"status": "ok"})


async def stream_events(call: Call) -> web.StreamResponse:
    """Server-sent events until the client leaves or the gateway stops.

    Who names the last one it read in Last-Event-ID hears first what it missed, and with ?last=N
    who names none what happened in the last N seconds.
    """
    last_s = call.number("last", None, most=MAX_LAST_S) or 0
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    subscription = call.parts.events.subscribe(
        call.request.headers.get("Last-Event-ID", ""), last_s=last_s
    )
    try:
        await response.prepare(call.request)
        hello = {"type": "hello", "revision": call.publisher.table.revision}
        await response.write(_frame({"id": subscription.begun, **hello}))
        await _relay(subscription, response)
    except ConnectionError:
        pass
    finally:
        subscription.close()
    return response


async def _relay(subscription: Subscription, response: web.StreamResponse) -> None:
    while True:
        try:
            async with asyncio.timeout(_KEEP_ALIVE_S):
                event = await anext(subscription, None)
        except TimeoutError:
            await response.write(b": nothing new\n\n")
            continue
        if event is None:
            return
        await response.write(_frame(event))


def _frame(event: Event) -> bytes:
    told = {key: value for key, value in event.items() if key != "id"}
    number = b"id: %b\n" % event["id"].encode() if "id" in event else b""
    return b"%bevent: %b\ndata: %b\n\n" % (number, event["type"].encode(), orjson.dumps(told))
