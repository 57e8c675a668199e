"""The processes of a backend, as the admin API starts and stops them."""

from typing import Any

import pytest

from gateway.controlplane.watch.fleet_view import FleetView
from tests.controlplane.conftest import Admin, MakeAdmin

FILE = """
backends:
  lazy:
    instances: [fleet://lazy]
    serve: {model: m:A, start: demand}
  canary:
    instances: [fleet://canary]
    serve: {model: m:B, start: demand}
  boot: {serve: {model: m:C}, instances: [http://127.0.0.1:8001]}
  theirs: {instances: [http://127.0.0.1:8002]}
  scaled: {serve: {model: m:D, replicas: 2, scale: {min: 2, max: 4}}, instances: [fleet://scaled]}
routes:
  r: {match: /r, split: {lazy: 1, canary: 0, boot: 0, theirs: 0, scaled: 0}}
"""


@pytest.fixture
def told() -> list[Any]:
    return []


@pytest.fixture
async def served(make_admin: MakeAdmin, told: list[Any]) -> Admin:
    return await make_admin(FILE, fleet=lambda events: FleetView(events, told.append))


async def test_a_model_that_starts_on_demand_is_loaded_and_unloaded_by_a_word(
    served: Admin, told: list[Any]
) -> None:
    heard = served.parts.events.subscribe()
    for word in ("start", "stop"):
        status, found, headers = await served.ask("POST", f"/admin/v1/backends/lazy/{word}", {})
        assert (status, found["revision"], list(found["serves"])) == (200, 1, ["lazy"])
        assert headers["ETag"]
    assert [each["type"] for each in told] == ["wake", "sleep"]
    heard.close()
    assert [(e["type"], e["backend"]) async for e in heard] == [("start", "lazy"), ("stop", "lazy")]


async def test_a_dry_run_says_what_would_be_done_and_does_nothing(
    served: Admin, told: list[Any]
) -> None:
    status, found, _ = await served.ask("POST", "/admin/v1/backends/lazy/stop?dry_run=true", {})
    assert status == 200
    assert "next request loads it again" in found["serves"]["lazy"]
    assert told == []


@pytest.mark.parametrize(
    ("backend", "status", "said"),
    [
        ("boot", 409, "start: demand"),
        ("theirs", 409, "has no `serve`"),
        ("nobody", 404, "nobody"),
    ],
)
@pytest.mark.parametrize("word", ["start", "stop"])
async def test_what_cannot_be_loaded_by_a_word_is_said(
    served: Admin, told: list[Any], backend: str, status: int, said: str, word: str
) -> None:
    found, problem, _ = await served.ask("POST", f"/admin/v1/backends/{backend}/{word}", {})
    assert (found, said in problem["detail"]) == (status, True), problem
    assert told == []


async def test_a_model_that_a_rollout_leads_to_is_not_unloaded(
    served: Admin, told: list[Any]
) -> None:
    await served.parts.rollout_commands.begin("r", {"to": "canary"})
    status, problem, _ = await served.ask("POST", "/admin/v1/backends/canary/stop", {})
    assert status == 409
    assert "a rollout leads to" in problem["detail"]
    assert told == []


async def test_a_condition_counts_only_where_it_would_be_done_without_it(
    served: Admin, told: list[Any]
) -> None:
    other = {"If-Match": '"another"'}
    refused = [
        (await served.ask("POST", f"/admin/v1/backends/{backend}/{word}", {}, headers=other))[0]
        for backend, word in (("boot", "start"), ("lazy", "start"), ("lazy", "stop"))
    ]
    assert refused == [409, 412, 412]
    assert told == []


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
async def test_a_count_that_the_load_would_undo_is_refused(served: Admin, method: str) -> None:
    path = "/admin/v1/backends/scaled"
    spec = served.table.document["backends"]["scaled"]

    async def ask(**serve: Any) -> tuple[int, Any]:
        whole = {**spec, "serve": {**spec["serve"], **serve}}
        body = whole if method == "PUT" else {"serve": serve}
        status, found, _ = await served.ask(method, path, body)
        return status, found

    for count in (1, 5):
        status, problem = await ask(replicas=count)
        assert status == 400
        (fault,) = problem["errors"]
        assert (fault["pointer"], "from 2 to 4 replicas" in fault["detail"]) == (
            "/serve/replicas", True,
        )  # fmt: skip
    assert served.table.revision == 1
    assert (await ask(replicas=5, scale={"min": 2, "max": 6}))[0] == 200
    assert (await ask(replicas=5, scale={"min": 2, "max": 3}))[0] == 200, "it follows by itself"
