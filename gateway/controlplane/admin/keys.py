"""Keys: how are they made, shown, renewed and taken back?

Each is an entry of the document like a route, and each change an ordinary edit. A secret is made
here and answered once; what is stored, shown and told is its hash.
"""

import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from aiohttp import web

from gateway.controlplane.admin.calls import Call, answer, etag, outcome, seal
from gateway.controlplane.admin.routes import current, entered, read, write_entry
from gateway.core import edits
from gateway.core.access import hash_of, minted
from gateway.core.faults import Conflict, Fault, pointer
from gateway.core.table import Document

Json = Any
SECTION = "keys"
# A secret that was answered shall lie in no cache on the way.
_NOT_KEPT = {"Cache-Control": "no-store"}


async def list_keys(call: Call) -> web.Response:
    """Every key as it is configured, and how it is used; no secret."""
    used = {} if call.parts.keys_used is None else {"used": await call.parts.keys_used()}
    table = call.publisher.table
    keys = table.document.get(SECTION) or {}
    body = {"revision": table.revision, "keys": keys, **used}
    return call.shown(body, seal(body) if used else etag(keys), table.revision)


async def create_key(call: Call) -> web.Response:
    """A new key, whose secret is in this answer and nowhere else."""
    given = await call.mapping()
    name = given.pop("name", None)
    faults = []
    if not isinstance(name, str):
        faults = [Fault("/name", "missing" if name is None else "type", "must be the key's name")]
        name = "x"
    if "hashes" in given:  # a file may bring them; who asks for a key here gets a new one
        faults.append(Fault("/hashes", "unknown_key", "is made here; leave it out"))
    secret = minted(secrets.token_bytes(32))
    spec, more = read(SECTION, name, {**given, "hashes": [hash_of(secret)]})
    faults += [_in_body(each, name) for each in more]

    def created(document: Document) -> Document:
        found = current(document, SECTION, name)
        if found is not None and not faults:
            raise Conflict(f"there is a key {name!r} already; rotate it for another secret")
        return entered(call, document, SECTION, name, spec, faults)

    response = await _secret_write(call, name, secret, created, status=201)
    response.headers["Location"] = f"{call.request.path}/{name}"
    return response


def _in_body(fault: Fault, name: str) -> Fault:
    """`fault` of an entry by where it is in the body: its name stands there as a value."""
    return replace(fault, pointer="/name") if fault.pointer in ("", pointer(name)) else fault


async def rotate_key(call: Call) -> web.Response:
    """A further secret for a key; the ones before stay valid until they are retired."""
    await call.spare()
    name = call.part("name")
    secret = minted(secrets.token_bytes(32))
    return await _secret_write(
        call, name, secret, lambda document: edits.rotate_key(document, name, hash_of(secret))
    )


async def retire_key(call: Call) -> web.Response:
    """Leaves a key its newest secret alone."""
    await call.spare()
    name = call.part("name")
    return await write_entry(call, SECTION, name, lambda document: edits.retire_key(document, name))


async def _secret_write(
    call: Call, name: str, secret: str, edit: Callable[[Document], Document], status: int = 200
) -> web.Response:
    published = await call.edited(edit, lambda document: current(document, SECTION, name))
    body = {"name": name, "key": secret, **outcome(published)}
    if published.dry_run:
        del body["key"]  # it opens nothing
    else:
        del body["diff"]
    tag = etag(current(published.table.document, SECTION, name))
    return answer(
        body,
        status=200 if published.dry_run else status,
        tag=tag,
        revision=published.revision,
        headers=_NOT_KEPT,
    )
