"""The resources of the admin API: what each call answers and what it makes of the table."""

import asyncio
import json
import random
from typing import Any

import pytest

from gateway.controlplane.admin.openapi_operations import EXAMPLES
from gateway.controlplane.admin.operations import OPERATIONS
from gateway.core.access import hash_of
from tests.controlplane.conftest import FILE, Admin, MakeAdmin

KEYED = f"keys: {{globex: {{hashes: ['{hash_of('x')}']}}}}\n"
WEIGHTS = "/admin/v1/routes/digits/weights"
ROUTE = "/admin/v1/routes/digits"
BACKEND = "/admin/v1/backends/digits-cnn"


async def test_a_weights_write_answers_as_the_contract_says(admin: Admin) -> None:
    status, answer, headers = await admin.ask(
        "PUT", WEIGHTS, {"digits-linear": 50, "digits-cnn": 50}
    )
    assert status == 200
    assert answer == {
        "revision": 2,
        "route": "digits",
        "previous": {"digits-linear": 90, "digits-cnn": 10},
        "weights": {"digits-linear": 50, "digits-cnn": 50},
        "applied": {"workers": 1},
    }
    assert list(answer) == ["revision", "route", "previous", "weights", "applied"]
    assert headers["X-Headgate-Revision"] == "2"


async def test_weights_are_read_with_what_is_effective(admin: Admin) -> None:
    status, answer, headers = await admin.ask("GET", WEIGHTS)
    assert (status, answer["revision"], answer["route"]) == (200, 1, "digits")
    assert answer["weights"] == {"digits-linear": 90, "digits-cnn": 10}
    assert set(answer) == {"revision", "route", "weights", "effective"}
    assert headers["ETag"]


async def test_r50_faults_of_weights_are_named_all_at_once_and_nothing_changes(
    admin: Admin,
) -> None:
    status, problem, headers = await admin.ask("PUT", WEIGHTS, {"digits-cnn": -1, "digits-cn": 1})
    assert status == 400
    assert headers["Content-Type"] == "application/problem+json"
    assert headers["X-Headgate-Error"] == problem["code"] == "invalid"
    assert {fault["pointer"]: fault["code"] for fault in problem["errors"]} == {
        "/digits-cnn": "weight",
        "/digits-cn": "unknown_backend",
        "/digits-linear": "missing",
    }
    assert any("did you mean digits-cnn?" in fault["detail"] for fault in problem["errors"])
    assert admin.table.revision == 1


async def test_all_weights_may_be_zero(admin: Admin) -> None:
    status, _, _ = await admin.ask("PUT", WEIGHTS, {"digits-linear": 0, "digits-cnn": 0})
    assert status == 200


async def test_a_route_is_made_read_changed_and_deleted(admin: Admin) -> None:
    path = "/admin/v1/routes/new"
    spec = {"match": {"path": "/new"}, "split": {"digits-cnn": 1}}
    status, made, _ = await admin.ask("PUT", path, {**spec, "match": "/new"})
    assert (status, made["previous"], made["current"]) == (201, None, spec)
    status, found, _ = await admin.ask("GET", path)
    assert (status, found) == (200, spec)
    status, patched, _ = await admin.ask(
        "PATCH", path, {"rewrite": "/p", "match": {"exact": "/n", "path": None}}
    )
    assert patched["current"] == {**spec, "match": {"exact": "/n"}, "rewrite": "/p"}
    status, put, _ = await admin.ask("PUT", path, found)
    assert (status, put["current"]) == (200, spec)
    status, deleted, _ = await admin.ask("DELETE", path)
    assert (status, deleted["current"]) == (200, None)
    status, problem, _ = await admin.ask("GET", path)
    assert (status, problem["code"]) == (404, "not_found")


async def test_a_backend_in_use_is_not_deleted(admin: Admin) -> None:
    status, problem, _ = await admin.ask("DELETE", BACKEND)
    assert (status, problem["code"]) == (409, "conflict")
    assert "route 'digits'" in problem["detail"]
    await admin.ask("PATCH", ROUTE, {"split": {"digits-cnn": None}})
    status, _, _ = await admin.ask("DELETE", BACKEND)
    assert status == 200


async def test_an_instance_goes_through_its_states(admin: Admin) -> None:
    def state() -> dict[str, str]:
        return {i.address: i.state for i in admin.table.backends["digits-cnn"].instances}

    status, _, headers = await admin.ask(
        "POST", f"{BACKEND}/instances", {"url": "http://127.0.0.1:8009"}
    )
    assert status == 201
    assert headers["Location"] == f"{BACKEND}/instances/127.0.0.1:8009"
    for verb, word in (
        ("drain", "draining"),
        ("resume", ""),
        ("disable", "disabled"),
        ("enable", ""),
    ):
        status, _, _ = await admin.ask("POST", f"{BACKEND}/instances/127.0.0.1:8009/{verb}")
        assert status == 200
        assert state()["127.0.0.1:8009"] == word
    status, _, _ = await admin.ask("DELETE", f"{BACKEND}/instances/127.0.0.1:8009")
    assert status == 200
    assert "127.0.0.1:8009" not in state()
    status, _, _ = await admin.ask("POST", f"{BACKEND}/instances/127.0.0.1:8009/drain")
    assert status == 404
    status, _, _ = await admin.ask("POST", f"{BACKEND}/instances", {"url": "http://127.0.0.1:8002"})
    assert status == 409


async def test_ipv6_instances_are_named_with_or_without_encoding(admin: Admin) -> None:
    await admin.ask("POST", f"{BACKEND}/instances", {"url": "http://[::1]:9"})
    status, _, _ = await admin.ask("POST", f"{BACKEND}/instances/%5B::1%5D:9/drain")
    assert status == 200
    status, _, _ = await admin.ask("DELETE", f"{BACKEND}/instances/[::1]:9")
    assert status == 200


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254:80",
        "http://0.0.0.0:1",
        "http://[::ffff:10.0.0.1]:80",
        "http://2130706433:80",
        "http://u:p@10.0.0.1:80",
        "http://10.0.0.1:80\r\nX: y",
        "file:///etc/passwd",
        "http://127.0.0.1:8080",
        "http://127.0.0.1:8081",
        5,
        None,
    ],
)
async def test_r61_the_admin_api_takes_none_of_these_as_instances(admin: Admin, url: Any) -> None:
    status, problem, _ = await admin.ask("POST", f"{BACKEND}/instances", {"url": url})
    assert (status, problem["code"]) == (400, "invalid")
    status, _, _ = await admin.ask("PUT", BACKEND, {"instances": [url]})
    assert status == 400
    assert admin.table.revision == 1


async def test_a_dry_run_shows_the_difference_and_changes_nothing(admin: Admin) -> None:
    status, answer, _ = await admin.ask("PATCH", f"{WEIGHTS}?dry_run=true", {"digits-cnn": 0})
    assert status == 200
    assert answer["dry_run"] is True
    assert answer["revision"] == 1
    assert answer["weights"]["digits-cnn"] == 0
    assert [change["pointer"] for change in answer["diff"]] == ["/routes/digits/split/digits-cnn"]
    assert admin.table.revision == 1
    status, problem, _ = await admin.ask("PATCH", f"{WEIGHTS}?dry_run=maybe", {"digits-cnn": 0})
    assert (status, problem["code"]) == (400, "bad_request")


async def test_r51_a_stale_write_is_answered_with_the_current_state(admin: Admin) -> None:
    _, _, headers = await admin.ask("GET", WEIGHTS)
    await admin.ask("PATCH", WEIGHTS, {"digits-cnn": 11})
    status, problem, _ = await admin.ask(
        "PATCH", WEIGHTS, {"digits-cnn": 12}, headers={"If-Match": headers["ETag"]}
    )
    assert (status, problem["code"]) == (412, "precondition_failed")
    assert problem["current"] == {"digits-linear": 90, "digits-cnn": 11}
    fresh = {"If-Match": f'"other", {problem["etag"]}'}
    status, _, _ = await admin.ask("PATCH", WEIGHTS, {"digits-cnn": 12}, headers=fresh)
    assert status == 200


async def test_an_edit_elsewhere_does_not_make_a_write_stale(admin: Admin) -> None:
    _, _, headers = await admin.ask("GET", ROUTE)
    await admin.ask("PATCH", BACKEND, {"max_in_flight": 5})
    status, _, _ = await admin.ask(
        "PATCH", ROUTE, {"rewrite": "/x"}, headers={"If-Match": headers["ETag"]}
    )
    assert status == 200


async def test_a_weak_or_unknown_tag_matches_nothing_and_a_star_anything_there(
    admin: Admin,
) -> None:
    _, _, headers = await admin.ask("GET", ROUTE)
    for said, wanted in ((f"W/{headers['ETag']}", 412), ('"x"', 412), ("*", 200)):
        status, _, _ = await admin.ask("PATCH", ROUTE, {}, headers={"If-Match": said})
        assert status == wanted
    status, _, _ = await admin.ask(
        "PUT",
        "/admin/v1/routes/none",
        {"match": "/n", "split": {"digits-cnn": 1}},
        headers={"If-Match": "*"},
    )
    assert status == 412


async def test_only_a_new_route_is_made_where_that_is_asked_for(admin: Admin) -> None:
    spec = {"match": "/n", "split": {"digits-cnn": 1}}
    for wanted in (201, 412):
        status, _, _ = await admin.ask(
            "PUT", "/admin/v1/routes/n", spec, headers={"If-None-Match": "*"}
        )
        assert status == wanted


async def test_r51_conditions_can_be_required(make_admin: MakeAdmin) -> None:
    admin = await make_admin("gateway: {require_if_match: true}\n" + FILE)
    for method, path, body in (
        ("PATCH", WEIGHTS, {"digits-cnn": 1}),
        ("PATCH", ROUTE, {"rewrite": "/x"}),
        ("DELETE", ROUTE, None),
        ("POST", f"{BACKEND}/instances", {"url": "http://127.0.0.1:8009"}),
        ("POST", f"{BACKEND}/instances/127.0.0.1:8002/drain", None),
        ("POST", "/admin/v1/apply", {}),
        ("POST", "/admin/v1/history/1/restore", None),
    ):
        status, problem, _ = await admin.ask(method, path, body)
        assert (status, problem["code"]) == (428, "precondition_required"), path
    assert admin.table.revision == 1
    _, _, headers = await admin.ask("GET", WEIGHTS)
    status, _, _ = await admin.ask(
        "PATCH", WEIGHTS, {"digits-cnn": 1}, headers={"If-Match": headers["ETag"]}
    )
    assert status == 200


@pytest.mark.parametrize(
    ("writers", "writes"),
    [(10, 20), pytest.param(50, 100, marks=[pytest.mark.soak, pytest.mark.timeout(600)])],
)
async def test_r51_concurrent_writers_lose_no_update(
    admin: Admin, writers: int, writes: int
) -> None:
    revisions: list[int] = []
    stale = 0

    async def write(chance: random.Random) -> None:
        nonlocal stale
        done = 0
        while done < writes:
            _, found, headers = await admin.ask("GET", WEIGHTS)
            await asyncio.sleep(chance.random() / 1000)
            weights = {**found["weights"], "digits-cnn": found["weights"]["digits-cnn"] + 1}
            status, answer, _ = await admin.ask(
                "PUT", WEIGHTS, weights, headers={"If-Match": headers["ETag"]}
            )
            if status == 200:
                revisions.append(answer["revision"])
                done += 1
            else:
                assert status == 412
                stale += 1
                # As a client that wants to get on does: fifty at once would only meet again.
                await asyncio.sleep(chance.random() * writers / 500)

    await asyncio.gather(*(write(random.Random(n)) for n in range(writers)))
    total = writers * writes
    assert sorted(revisions) == list(range(2, total + 2))
    assert admin.table.routes["digits"].weights["digits-cnn"] == 10 + total
    assert stale


async def test_r51_writes_without_a_condition_are_all_applied(admin: Admin) -> None:
    answers = await asyncio.gather(
        *(admin.ask("PATCH", WEIGHTS, {"digits-cnn": n}) for n in range(100))
    )
    assert sorted(answer["revision"] for _, answer, _ in answers) == list(range(2, 102))


async def test_history_tells_who_when_why_and_what(admin: Admin) -> None:
    await admin.ask("PATCH", WEIGHTS, {"digits-cnn": 20}, headers={"X-Change-Reason": "more CNN"})
    _, history, _ = await admin.ask("GET", "/admin/v1/history")
    newest = history["revisions"][0]
    assert newest["why"] == "more CNN"
    assert newest["who"] == "local@127.0.0.1"
    assert newest["time"].endswith("Z")
    assert [change["after"] for change in newest["diff"]] == [20]
    _, page, _ = await admin.ask("GET", "/admin/v1/history?limit=1")
    assert page["next"] == 2
    _, page, _ = await admin.ask("GET", "/admin/v1/history?limit=1&before=2")
    assert [revision["revision"] for revision in page["revisions"]] == [1]
    for query in ("limit=0", "limit=x", "limit=1001", "before=-1", "limit=" + "9" * 400):
        status, _, _ = await admin.ask("GET", f"/admin/v1/history?{query}")
        assert status == 400, query


async def test_an_old_revision_is_shown_and_restored(admin: Admin) -> None:
    await admin.ask("PATCH", WEIGHTS, {"digits-cnn": 20})
    _, first, _ = await admin.ask("GET", "/admin/v1/history/1")
    assert first["document"]["routes"]["digits"]["split"]["digits-cnn"] == 10
    status, tried, _ = await admin.ask("POST", "/admin/v1/history/1/restore?dry_run=true")
    assert (status, tried["revision"]) == (200, 2)
    status, restored, _ = await admin.ask(
        "POST", "/admin/v1/history/1/restore", headers={"If-Match": '"2"'}
    )
    assert (status, restored["revision"], restored["restored"]) == (200, 3, 1)
    assert admin.table.document == first["document"]
    status, _, _ = await admin.ask(
        "POST", "/admin/v1/history/1/restore", headers={"If-Match": '"2"'}
    )
    assert status == 412
    for number in ("99", "0", "-1", "x", "9" * 30, "1.0"):
        status, _, _ = await admin.ask("GET", f"/admin/v1/history/{number}")
        assert status == 404, number


async def test_a_file_is_applied_as_yaml_or_json_and_names_what_it_overrides(
    admin: Admin,
) -> None:
    await admin.ask("PATCH", WEIGHTS, {"digits-linear": 7, "digits-cnn": 20})
    file = FILE.replace("digits-cnn: 10", "digits-cnn: 30")
    yaml = {"data": file, "headers": {"Content-Type": "application/yaml"}}
    status, tried, _ = await admin.ask("POST", "/admin/v1/apply?dry_run=true", **yaml)
    assert (status, tried["revision"], tried["dry_run"]) == (200, 2, True)
    assert tried["overridden"] == [
        {
            "op": "replace",
            "pointer": "/routes/digits/split/digits-cnn",
            "before": 20,
            "after": 30,
        }
    ]
    status, applied, _ = await admin.ask("POST", "/admin/v1/apply", **yaml)
    assert (status, applied["revision"]) == (200, 3)
    assert admin.table.routes["digits"].weights == {"digits-linear": 7, "digits-cnn": 30}
    document = json.loads(json.dumps({**admin.table.document}))
    status, _, _ = await admin.ask("POST", "/admin/v1/apply", document)
    assert status == 200


async def test_a_file_whose_settings_are_not_those_that_run_says_which(
    admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADGATE_DRAIN", "7s")
    settings = "gateway: {workers: 3, head_timeout: 3s, drain: 9s, keep_alive: 75s}\n"
    headers = {"Content-Type": "application/yaml"}
    status, applied, _ = await admin.ask(
        "POST", "/admin/v1/apply", data=settings + FILE, headers=headers
    )
    assert (status, applied["restart"]) == (200, ["workers", "head_timeout"])
    status, applied, _ = await admin.ask("POST", "/admin/v1/apply", data=FILE, headers=headers)
    assert (status, applied["restart"]) == (200, [])


async def test_a_file_with_faults_is_refused_with_all_of_them_and_their_lines(
    admin: Admin,
) -> None:
    status, problem, _ = await admin.ask(
        "POST",
        "/admin/v1/apply",
        data=FILE.replace("split:", "splitt:") + "gatewya: {}\n",
        headers={"Content-Type": "application/yaml"},
    )
    assert status == 400
    assert {fault["pointer"] for fault in problem["errors"]} == {
        "/routes/digits/splitt",
        "/routes/digits/split",
        "/gatewya",
    }
    assert all("line " in fault["detail"] for fault in problem["errors"])


async def test_status_and_metrics_and_health_are_shown(admin: Admin) -> None:
    status, answer, _ = await admin.ask("GET", "/admin/v1/status")
    assert (status, answer["revision"]) == (200, 1)
    for path in ("/livez", "/readyz"):
        assert (await admin.ask("GET", path))[0] == 200
    async with admin.client.get("/metrics") as response:
        assert response.content_type == "text/plain"
        assert await response.text() == "headgate_revision 1\n"


async def test_every_example_of_the_reference_is_accepted(make_admin: MakeAdmin) -> None:
    for operation in OPERATIONS:
        if operation.name not in EXAMPLES:
            continue
        admin = await make_admin(FILE + KEYED)
        path = operation.path.replace("{route}", "digits").replace("{backend}", "digits-linear")
        path = path.replace("{name}", "globex")
        status, answer, _ = await admin.ask(operation.method, path, EXAMPLES[operation.name])
        assert status in (200, 201), (operation.name, answer)


async def test_every_operation_with_a_body_has_an_example() -> None:
    assert {operation.name for operation in OPERATIONS if operation.body} == set(EXAMPLES)


async def test_an_unforeseen_error_says_nothing_of_itself(
    admin: Admin, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken() -> dict[str, Any]:
        raise RuntimeError("secret /path/to/file.py")

    admin.parts.view.status = broken  # type: ignore[method-assign]
    status, problem, _ = await admin.ask("GET", "/admin/v1/status")
    assert (status, problem["code"]) == (500, "internal")
    assert "secret" not in json.dumps(problem)
    assert problem["request_id"] in caplog.text
