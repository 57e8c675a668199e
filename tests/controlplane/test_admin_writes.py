"""What all reads and all writes of the admin API have in common."""

import re
from typing import Any

import pytest

from gateway.controlplane.admin.operations import OPERATIONS
from gateway.controlplane.watch.fleet_view import FleetView
from tests.controlplane.conftest import Admin, MakeAdmin

WEIGHTS = "/admin/v1/routes/digits/weights"
ROUTE = "/admin/v1/routes/digits"
BACKEND = "/admin/v1/backends/digits-cnn"


async def test_what_is_read_may_be_had_already(admin: Admin) -> None:
    for path in ("/admin/v1/table", ROUTE, BACKEND, "/admin/v1/history", "/admin/v1/history/1"):
        _, _, headers = await admin.ask("GET", path)
        for tags, status in (
            (headers["ETag"], 304),
            (f'"x", W/{headers["ETag"]}', 304),
            ("*", 304),
            ('"x"', 200),
        ):
            for method in ("GET", "HEAD"):
                said = {"If-None-Match": tags}
                async with admin.client.request(method, path, headers=said) as response:
                    assert response.status == status, (path, tags)
                    assert response.headers["ETag"] == headers["ETag"]


async def test_every_resource_has_an_entity_tag(admin: Admin) -> None:
    for path in (WEIGHTS, "/admin/v1/status"):
        _, _, headers = await admin.ask("GET", path)
        assert headers["ETag"].startswith('"')


ALL_AT_ONCE = [
    (
        "PUT", "/admin/v1/routes/new",
        {"match": "/digits", "split": {"digits-cn": 1, "b": -1}, "rewrite": "x", "mirrr": 1},
        {"/rewrite", "/mirrr", "/match", "/split/digits-cn", "/split/b"},
    ),
    ("PATCH", ROUTE, {"split": {"none": 1}, "rewrite": "x"}, {"/rewrite", "/split/none"}),
    ("PATCH", ROUTE, {"split": None, "sticky": {}}, {"/split", "/sticky"}),
    (
        "PUT", BACKEND,
        {"instances": ["http://127.0.0.1:8081", "http://169.254.1.1:80"], "queue": {"size": -1}},
        {"/instances/0", "/instances/1", "/queue/size"},
    ),
    ("PATCH", BACKEND, {"states": {"127.0.0.1:1": "draining"}}, {"/states/127.0.0.1:1"}),
    ("POST", f"{BACKEND}/instances", {"url": "http://127.0.0.1:8081"}, {"/url"}),
    ("POST", f"{BACKEND}/instances", {"url": "127.0.0.1:1", "a/b": 1}, {"/url", "/a~1b"}),
    (
        "POST", "/admin/v1/apply",
        {"routes": {"r": {"match": "x", "split": {"none": 1}}}, "bakends": {}},
        {"/routes/r/match", "/routes/r/split/none", "/bakends"},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body", "pointers"), ALL_AT_ONCE)
async def test_every_fault_is_named_at_once_by_where_it_is_in_the_body(
    admin: Admin, method: str, path: str, body: Any, pointers: set[str]
) -> None:
    status, problem, _ = await admin.ask(method, path, body)
    assert (status, problem["code"]) == (400, "invalid")
    assert {fault["pointer"] for fault in problem["errors"]} == pointers
    assert all(set(fault) == {"pointer", "code", "detail"} for fault in problem["errors"])
    assert admin.table.revision == 1


async def test_a_clash_is_said_of_the_route_that_is_edited(admin: Admin) -> None:
    await admin.ask("PUT", "/admin/v1/routes/new", {"match": "/n", "split": {"digits-cnn": 1}})
    status, problem, _ = await admin.ask("PATCH", ROUTE, {"match": {"path": "/n"}})
    assert status == 400
    assert [(fault["pointer"], fault["code"]) for fault in problem["errors"]] == [
        ("/match", "duplicate_match")
    ]
    assert "route 'new'" in problem["errors"][0]["detail"]


async def test_a_misspelt_dry_run_is_no_edit(admin: Admin) -> None:
    for query in ("dryrun=true", "dry-run=true", "dry_run=true&x=1", "DRY_RUN=true"):
        status, problem, _ = await admin.ask("PATCH", f"{WEIGHTS}?{query}", {"digits-cnn": 0})
        assert (status, problem["code"]) == (400, "bad_request"), query
    _, problem, _ = await admin.ask("DELETE", f"{ROUTE}?dryrun=true")
    assert "did you mean dry_run?" in problem["detail"]
    assert admin.table.revision == 1


EVERY_WRITE: list[tuple[str, str, Any]] = [
    ("POST", "/admin/v1/apply", {}),
    ("PUT", ROUTE, {"match": "/n", "split": {"digits-cnn": 1}}),
    ("PATCH", ROUTE, {"rewrite": "/x"}),
    ("DELETE", ROUTE, None),
    ("PUT", WEIGHTS, {"digits-linear": 1, "digits-cnn": 1}),
    ("PATCH", WEIGHTS, {"digits-cnn": 1}),
    ("PUT", BACKEND, {}),
    ("PATCH", BACKEND, {"max_in_flight": 5}),
    ("DELETE", "/admin/v1/backends/spare", None),
    ("POST", f"{BACKEND}/instances", {"url": "http://127.0.0.1:8009"}),
    ("DELETE", f"{BACKEND}/instances/127.0.0.1:8002", None),
    *(("POST", f"{BACKEND}/instances/127.0.0.1:8002/{verb}", None)
      for verb in ("drain", "resume", "disable", "enable")),
    ("POST", "/admin/v1/history/1/restore", None),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body"), EVERY_WRITE)
async def test_every_write_knows_dry_runs_conditions_and_reasons(
    admin: Admin, method: str, path: str, body: Any
) -> None:
    await admin.ask("PUT", "/admin/v1/backends/spare", {})
    resource = re.sub(r"/instances.*", "", path)
    resource = "/admin/v1/table" if re.search("apply|restore", path) else resource
    _, found, headers = await admin.ask("GET", resource)
    current = found.get("weights", found)
    status, tried, _ = await admin.ask(method, f"{path}?dry_run=true", body)
    assert (status, tried["dry_run"], tried["revision"]) == (200, True, 2)
    assert isinstance(tried["diff"], list)
    status, problem, told = await admin.ask(method, path, body, headers={"If-Match": '"old"'})
    assert (status, problem["code"], problem["current"]) == (412, "precondition_failed", current)
    assert problem["etag"] == told["ETag"] == headers["ETag"]
    assert admin.table.revision == 2
    condition = {"If-Match": headers["ETag"], "X-Change-Reason": "because"}
    status, done, told = await admin.ask(method, path, body, headers=condition)
    assert (status in (200, 201), done["revision"]) == (True, 3)
    assert told["X-Headgate-Revision"] == "3"
    assert (await admin.parts.publisher.history(limit=1)).edits[0].why == "because"


SERVED = """
backends:
  a: {serve: {model: m:A}, instances: [http://127.0.0.1:8001]}
  b: {instances: [fleet://b], serve: {model: m:B, start: demand}}
  spare: {instances: [http://127.0.0.1:8003]}
routes:
  r: {match: /r, split: {a: 90, b: 10}}
  s: {match: /s, split: {a: 90, b: 10}}
keys:
  k: {routes: [s], hashes: ["sha256:%s"]}
  last: {routes: [s], hashes: ["sha256:%s"]}
"""
TRIED: dict[str, tuple[str, Any]] = {
    "applyFile": ("/admin/v1/apply", {}),
    "putRoute": ("/admin/v1/routes/r", {"match": "/n", "split": {"a": 1}}),
    "patchRoute": ("/admin/v1/routes/r", {"rewrite": "/x"}),
    "deleteRoute": ("/admin/v1/routes/r", None),
    "putWeights": ("/admin/v1/routes/r/weights", {"a": 1, "b": 1}),
    "patchWeights": ("/admin/v1/routes/r/weights", {"a": 1}),
    "putRollout": ("/admin/v1/routes/r/rollout", {"to": "b"}),
    "deleteRollout": ("/admin/v1/routes/s/rollout", None),
    "putBackend": ("/admin/v1/backends/n", {}),
    "patchBackend": ("/admin/v1/backends/a", {"max_in_flight": 5}),
    "deleteBackend": ("/admin/v1/backends/spare", None),
    "addInstance": ("/admin/v1/backends/spare/instances", {"url": "http://127.0.0.1:8009"}),
    "removeInstance": ("/admin/v1/backends/spare/instances/127.0.0.1:8003", None),
    "setInstanceState": ("/admin/v1/backends/spare/instances/127.0.0.1:8003/drain", None),
    "restartBackend": ("/admin/v1/backends/a/restart", None),
    "startBackend": ("/admin/v1/backends/b/start", None),
    "stopBackend": ("/admin/v1/backends/b/stop", None),
    "createKey": ("/admin/v1/keys", {"name": "another"}),
    "patchKey": ("/admin/v1/keys/k", {"routes": ["r"]}),
    "deleteKey": ("/admin/v1/keys/k", None),
    "rotateKey": ("/admin/v1/keys/k/rotate", None),
    "retireKey": ("/admin/v1/keys/k/retire", None),
    "restoreRevision": ("/admin/v1/history/1/restore", None),
}  # fmt: skip


async def test_every_write_that_is_but_tried_says_so(make_admin: MakeAdmin) -> None:
    told: list[Any] = []
    file = SERVED % ("0" * 64, "1" * 64)
    admin = await make_admin(file, fleet=lambda events: FleetView(events, told.append))
    commands = admin.parts.rollout_commands
    for operation in OPERATIONS:
        if operation.writes and operation.name != "commandRollout":
            if operation.name == "deleteRollout":
                await commands.begin("s", {"to": "b"})
                await commands.command("s", "abort")
            path, body = TRIED[operation.name]
            status, found, _ = await admin.ask(operation.method, f"{path}?dry_run=true", body)
            assert (operation.name, status, found.get("dry_run")) == (operation.name, 200, True)
    await commands.forget("s")
    await commands.begin("s", {"to": "b", "steps": [{"percent": 1, "approval": True}, 100]})
    for word in ("pause", "promote", "abort"):
        status, found, _ = await admin.ask(
            "POST", f"/admin/v1/routes/s/rollout/{word}?dry_run=true"
        )
        assert (word, status, found["dry_run"]) == (word, 200, True)
    assert not told
    assert admin.table.document["keys"]["k"]["hashes"]
