"""R49: whatever body or name reaches a write, it is refused cleanly or kept exactly."""

import asyncio
import base64
import json
from typing import Any
from urllib.parse import quote

import pytest

from gateway.controlplane.admin.operations import OPERATIONS
from gateway.controlplane.admin.strict_json import NotJson, loads
from gateway.controlplane.store.store import checksum
from gateway.core.access import hash_of
from gateway.core.edits import merge_patch
from tests.controlplane.conftest import FILE, Admin, MakeAdmin
from tests.harness.corpora import folder, rows

WITH_BODY = [
    (operation.method, path)
    for operation in OPERATIONS
    if operation.body
    for path in [
        operation.path.replace("{route}", "digits").replace("{backend}", "digits-cnn")
        .replace("{name}", "acme")
    ]
]  # fmt: skip
INSTANCE = "/admin/v1/backends/digits-cnn/instances/127.0.0.1:8002"
BARE = [
    ("POST", f"{INSTANCE}/drain"),
    ("POST", "/admin/v1/history/1/restore"),
    ("DELETE", INSTANCE),
    ("POST", "/admin/v1/keys/acme/rotate"),
    ("POST", "/admin/v1/keys/acme/retire"),
    ("DELETE", "/admin/v1/routes/digits"),
]
WRITES = WITH_BODY + BARE
FORM_TYPES = [
    "text/plain",
    "text/plain; charset=utf-8",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
]
JSON_HEADERS = {"Content-Type": "application/json"}


@pytest.fixture
async def admin(make_admin: MakeAdmin) -> Admin:
    """One with a key beside its routes and backends."""
    return await make_admin(f"{FILE}keys: {{acme: {{hashes: ['{hash_of('x')}']}}}}\n")


def state(admin: Admin) -> str:
    return checksum([admin.table.revision, admin.table.document])


async def send(admin: Admin, method: str, path: str, **more: Any) -> tuple[int, Any]:
    async with admin.client.request(method, path, **more) as response:
        body = await response.read()
        return response.status, json.loads(body)


def json_or_none(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def naughty() -> list[str]:
    found = folder()
    if found is None or not (found / "blns.json").is_file():
        pytest.skip("corpus blns.json not found: set HEADGATE_CORPORA to its folder")
    strings: list[str] = json.loads((found / "blns.json").read_text())
    return strings


@pytest.mark.parametrize(("method", "path"), WRITES)
async def test_r49_every_file_of_the_json_test_suite_is_refused_or_means_what_it_says(
    admin: Admin, method: str, path: str
) -> None:
    for row in rows("json_test_suite"):
        before = state(admin)
        body = base64.b64decode(row["b64"])
        if (method, path) in BARE and (not body or json_or_none(body) == {}):
            continue  # says nothing, and is as good as no body
        status, answer = await send(admin, method, path, data=body, headers=JSON_HEADERS)
        if status in (200, 201):
            # Only an empty object is an edit: an empty file, an empty patch, a backend of nothing.
            assert row["verdict"] != "reject", row["id"]
            assert json.loads(body) == {}, row["id"]
        else:
            assert 400 <= status < 500, (row["id"], status)
            assert answer["status"] == status
            if row["verdict"] == "reject":
                assert answer["code"] == "not_json", row["id"]
            assert state(admin) == before, row["id"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"NaN",
        b'{"digits-cnn": NaN}',
        b'{"digits-cnn": Infinity}',
        b'{"digits-cnn": -Infinity}',
        b'{"digits-cnn": 1e400}',
        b'{"digits-cnn": 1, "digits-cnn": 2}',
        b'{"digits-cnn": true}',
        b'{"digits-cnn": "1"}',
        b'{"digits-cnn": -0}',
        b'{"digits-cnn": -0.0}',
        b'{"digits-cnn": 1.0}',
        b'{"digits-cnn": 1e308}',
        b'{"digits-cnn": ' + b"9" * 5000 + b"}",
        b'\xef\xbb\xbf{"digits-cnn": 1}',
        b'{"digits-cnn": 1} x',
        b'{"digits-cnn": 1',
        b"{'digits-cnn': 1}",
        b'{"\\ud800": 1}',
        b'{"digits-cnn": "\\udfff"}',
        b"\xff",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a": "' + b"[" * 100_000,
        b"[]",
        b"null",
        b"1",
        b'"digits-cnn"',
    ],
    ids=lambda body: repr(body[:24]),
)
@pytest.mark.parametrize("method", ["PUT", "PATCH"])
async def test_r49_r50_bodies_that_are_no_weights_change_nothing(
    admin: Admin, method: str, body: bytes
) -> None:
    before = state(admin)
    path = "/admin/v1/routes/digits/weights"
    status, answer = await send(admin, method, path, data=body, headers=JSON_HEADERS)
    assert status == 400
    assert answer["code"] in ("not_json", "invalid")
    assert state(admin) == before


@pytest.mark.parametrize(("method", "path"), WRITES)
@pytest.mark.parametrize(
    "content_type",
    [
        *FORM_TYPES,
        "text/html",
        "application/json; charset=utf-16",
        "application/jsonp",
        "application/xml",
        "",
    ],
)
async def test_r49_r60_only_json_is_read(
    admin: Admin, method: str, path: str, content_type: str
) -> None:
    before = state(admin)
    headers = {"Content-Type": content_type} if content_type else {}
    body = b'{"digits-cnn": 1}'
    kwargs: dict[str, Any] = {"data": body, "headers": headers}
    if not content_type:
        kwargs["skip_auto_headers"] = ["Content-Type"]
    status, answer = await send(admin, method, path, **kwargs)
    assert (status, answer["code"]) == (415, "unsupported_media_type")
    assert state(admin) == before


@pytest.mark.parametrize(("method", "path"), BARE)
@pytest.mark.parametrize("content_type", FORM_TYPES)
async def test_r60_an_empty_form_is_no_write(
    admin: Admin, method: str, path: str, content_type: str
) -> None:
    before = state(admin)
    headers = {"Content-Type": content_type}
    status, answer = await send(admin, method, path, data=b"", headers=headers)
    assert (status, answer["code"]) == (415, "unsupported_media_type")
    assert state(admin) == before


@pytest.mark.parametrize(("method", "path"), BARE)
@pytest.mark.parametrize("body", [None, b"", b"{}"])
async def test_a_write_that_takes_no_body_takes_an_empty_one(
    admin: Admin, method: str, path: str, body: bytes | None
) -> None:
    status, _ = await send(admin, method, path, data=body, headers=JSON_HEADERS)
    assert status == 200
    status, problem = await send(admin, method, path, data=b'{"a": 1}', headers=JSON_HEADERS)
    assert (status, problem["code"]) == (400, "invalid")


@pytest.mark.parametrize(("method", "path"), WRITES)
@pytest.mark.parametrize("chunked", [False, True])
async def test_r49_eleven_megabytes_are_refused(
    admin: Admin, method: str, path: str, chunked: bool
) -> None:
    before = state(admin)
    body = b'{"x": "' + b"a" * (11 << 20) + b'"}'

    async def pieces() -> Any:
        for start in range(0, len(body), 1 << 20):
            yield body[start : start + (1 << 20)]
            await asyncio.sleep(0)

    data = pieces() if chunked else body
    status, answer = await send(admin, method, path, data=data, headers=JSON_HEADERS)
    assert (status, answer["code"]) == (413, "body_too_large")
    assert state(admin) == before


async def test_r49_naughty_names_are_refused_or_kept_exactly(admin: Admin) -> None:
    spec = {"match": "/naughty", "split": {"digits-cnn": 1}}
    kept = 0
    for name in naughty():
        before = state(admin)
        path = f"/admin/v1/routes/{quote(name, safe='')}"
        async with admin.client.put(_raw(path), json=spec) as response:
            status = response.status
        if status == 201:
            kept += 1
            assert admin.table.document["routes"][name]["split"] == {"digits-cnn": 1}
            async with admin.client.get(_raw(path)) as response:
                assert await response.json() == {"match": {"path": "/naughty"}, **_split()}
            async with admin.client.delete(_raw(path)) as response:
                assert response.status == 200
        else:
            assert 400 <= status < 500, (name, status)
            assert state(admin) == before, name
    assert kept > 50


def _raw(path: str) -> Any:
    from yarl import URL

    return URL(path, encoded=True)


def _split() -> dict[str, Any]:
    return {"split": {"digits-cnn": 1}}


async def test_r49_naughty_names_of_backends_and_instances_are_refused_or_kept(
    admin: Admin,
) -> None:
    kept = 0
    for name in naughty():
        path = f"/admin/v1/backends/{quote(name, safe='')}"
        before = state(admin)
        async with admin.client.put(_raw(path), json={"max_in_flight": 7}) as response:
            status = response.status
        if status == 201:
            kept += 1
            async with admin.client.get(_raw(path)) as response:
                assert await response.json() == {"max_in_flight": 7}
            async with admin.client.delete(_raw(path)) as response:
                assert response.status == 200
        else:
            assert 400 <= status < 500, (name, status)
            assert state(admin) == before, name
        for method, to, body in (
            ("PATCH", "/admin/v1/routes/digits/weights", {name: 1}),
            ("POST", "/admin/v1/backends/digits-cnn/instances", {"url": name}),
            ("PATCH", "/admin/v1/backends/digits-cnn", {name: name}),
            ("POST", "/admin/v1/apply", {"backends": {"b": {"instances": [name]}}}),
        ):
            before = state(admin)
            status, _ = await send(admin, method, to, json=body)
            assert status == 400, (method, to, name)
            assert state(admin) == before
    assert kept > 50


async def test_r49_naughty_values_are_refused_or_kept_exactly(admin: Admin) -> None:
    kept = "field"
    for text in naughty():
        for patch in (
            {"match": {"json": {"field": text}}},
            {"match": {"json": {kept: None, text: 1}}},  # hundreds of fields would be slow
            {"match": {"headers": {"X-A": text}}},
            {"match": {"path": text}},
            {"sticky": {"header": text}},
        ):
            before = state(admin)
            status, answer = await send(admin, "PATCH", "/admin/v1/routes/digits", json=patch)
            if status == 200:
                found = admin.table.document["routes"]["digits"]
                assert merge_patch(found, patch) == found, text
                kept = text if text in found["match"].get("json", {}) else kept
            else:
                assert status == 400, (text, answer)
                assert state(admin) == before


async def test_r49_r62_naughty_reasons_are_refused_or_kept_exactly(admin: Admin) -> None:
    for text in naughty():
        if any(ord(char) < 32 or ord(char) == 127 for char in text):
            continue  # the client refuses to send it as a header
        status, answer = await send(
            admin,
            "PATCH",
            "/admin/v1/routes/digits/weights",
            json={"digits-cnn": 1},
            headers={"X-Change-Reason": text},
        )
        if status == 200:
            newest = (await admin.parts.publisher.history(limit=1)).edits[0]
            assert newest.why == text.strip(" \t")
            assert len(newest.why.splitlines()) <= 1
        else:
            assert (status, answer["code"]) == (400, "bad_request"), text


@pytest.mark.parametrize(
    "break_", ["\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c", "\x7f", "\u202e", "\x1b[31m"]
)
async def test_r62_a_reason_stays_one_line(admin: Admin, break_: str) -> None:
    before = state(admin)
    try:
        status, _ = await send(
            admin,
            "PATCH",
            "/admin/v1/routes/digits/weights",
            json={"digits-cnn": 1},
            headers={"X-Change-Reason": f"one{break_}two"},
        )
    except ValueError:
        return  # the client itself refuses to send it
    assert status == 400
    assert state(admin) == before


def test_strict_json_agrees_with_the_test_suite() -> None:
    for row in rows("json_test_suite"):
        body = base64.b64decode(row["b64"])
        try:
            value = loads(body)
        except NotJson:
            # What we refuse beyond RFC 8259: two equal keys, half surrogates, huge numbers, depth.
            assert row["verdict"] != "accept" or "dupl" in row["id"], row["id"]
        else:
            assert row["verdict"] != "reject", row["id"]
            assert value == json.loads(body)


@pytest.mark.parametrize("unit", [b'\\"', b'"', b'"\\"', b"\\\\", b'"a\\'])
def test_r49_what_a_body_costs_is_no_more_than_its_length(unit: bytes) -> None:
    """Two megabytes: minutes if anything were looked at again from every place."""
    with pytest.raises(NotJson):
        loads(b'{"a": "' + unit * (2_000_000 // len(unit)))
