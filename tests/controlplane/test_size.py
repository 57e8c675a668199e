"""A table that is too large to be served well is refused with its size, whatever way it comes."""

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.controlplane.configuration.checks import MAX_BACKENDS, MAX_INSTANCES, MAX_ROUTES
from gateway.controlplane.configuration.reading import ConfigurationError, examine, load
from gateway.controlplane.publisher import Publisher
from gateway.controlplane.store.store import Revision
from gateway.core.faults import Invalid
from tests.controlplane.conftest import Admin, MakeAdmin, make_publisher
from tests.controlplane.memory_store import MemoryStore

Document = dict[str, Any]


def table(*, routes: int = 1, backends: int = 1, instances: int = 1) -> Document:
    """So many routes, backends, and instances of the first of them."""
    urls = [f"http://10.{n >> 16}.{n >> 8 & 255}.{n & 255}:80" for n in range(instances)]
    rest: Document = {f"b{n}": {"instances": []} for n in range(1, backends)}
    return {
        "backends": {"b0": {"instances": urls}, **rest},
        "routes": {
            f"r{n}": {"match": {"path": f"/{n}"}, "split": {"b0": 1}} for n in range(routes)
        },
    }


MAX = {"routes": MAX_ROUTES, "backends": MAX_BACKENDS, "instances": MAX_INSTANCES}
WHAT = pytest.mark.parametrize("what", list(MAX))


def too_large(what: str) -> tuple[Document, str]:
    """A table with one too many, and what has to be said of it."""
    most = MAX[what]
    said = f"the table has {most + 1:,} {what} and no more than {most:,} are served well"
    return table(**{what: most + 1}), said


def test_the_limits_are_those_that_the_documentation_names() -> None:
    text = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    for what, most in MAX.items():
        assert f"{most:,} {what}" in " ".join(text.split())


@pytest.mark.parametrize("what", ["backends", "instances"])  # 50,000 routes take long to read
def test_a_file_that_is_too_large_is_refused_in_one_line(what: str, tmp_path: Path) -> None:
    document, said = too_large(what)
    file = tmp_path / "headgate.json"
    file.write_text(json.dumps(document))
    with pytest.raises(ConfigurationError) as refused:
        load(file, {})
    (problem,) = refused.value.problems
    assert said in str(problem)
    assert "split it over several gateways" in str(problem)


def test_of_a_file_that_is_too_large_nothing_else_is_examined() -> None:
    document, said = too_large("routes")
    document["routes"]["r0"] = {"match": "wrong"}
    _, _, faults = examine(document)
    assert [fault.detail for fault in faults] == [said]


@WHAT
async def test_an_applied_file_that_is_too_large_is_refused_with_one_fault(
    what: str, admin: Admin
) -> None:
    document, said = too_large(what)
    before = admin.table
    status, body, _ = await admin.ask("POST", "/admin/v1/apply", document)
    assert status == 400
    (fault,) = body["errors"]
    assert fault["code"] == "too_large"
    assert said in fault["detail"]
    assert admin.table is before


EDITS = [
    ("routes", "PUT", "/admin/v1/routes/one-more", {"match": "/more", "split": {"b0": 1}}),
    ("backends", "PUT", "/admin/v1/backends/one-more", {"instances": []}),
    ("instances", "POST", "/admin/v1/backends/b0/instances", {"url": "http://10.9.9.9:80"}),
]


@pytest.mark.parametrize(("what", "method", "path", "body"), EDITS)
async def test_an_edit_that_adds_one_too_many_is_refused_with_one_fault(
    what: str, method: str, path: str, body: Any, make_admin: MakeAdmin
) -> None:
    store = stored(table(**{what: MAX[what]}))
    admin = await make_admin("{}", store=store)
    before = admin.table
    assert len(before.routes) == (MAX_ROUTES if what == "routes" else 1), "at the limit it serves"
    status, answer, _ = await admin.ask(method, path, body)
    assert status == 400
    (fault,) = answer["errors"]
    assert fault["code"] == "too_large"
    assert too_large(what)[1] in fault["detail"]
    assert admin.table is before


def stored(*documents: Document) -> MemoryStore:
    """A store whose revisions are `documents`, as an earlier release may have left them."""
    store = MemoryStore()
    for number, document in enumerate(documents, 1):
        revision = Revision(number, "2026-01-01T00:00:00Z", "me", "", "api", [], document)
        store.commit(revision, {"backends": {}, "routes": {}} if number == 1 else None)
    return store


def start(publisher: Publisher) -> None:
    publisher.start({"backends": {}, "routes": {}}, why="start")


@WHAT
async def test_a_revision_that_is_too_large_does_not_come_back(what: str) -> None:
    document, said = too_large(what)
    publisher = make_publisher(stored(document, table()))
    start(publisher)
    before = publisher.table
    with pytest.raises(Invalid) as refused:
        await publisher.restore(1, who="me")
    assert [(fault.code, fault.detail) for fault in refused.value.faults] == [("too_large", said)]
    assert publisher.table is before
    await publisher.close()


@WHAT
async def test_a_state_that_is_too_large_is_not_started_with(what: str) -> None:
    document, said = too_large(what)
    publisher = make_publisher(stored(document))
    with pytest.raises(Invalid, match="no more than") as refused:
        start(publisher)
    assert [fault.detail for fault in refused.value.faults] == [said]
    await publisher.close()
