"""A machine that knows only the OpenAPI document tries to break the admin API."""

import asyncio
import functools
import importlib.util
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable

from gateway.controlplane.admin.app import admin_application
from gateway.controlplane.admin.calls import AdminParts
from gateway.controlplane.admin.listener import AdminListener
from gateway.controlplane.admin.openapi import openapi
from gateway.controlplane.admin.operations import OPERATIONS
from gateway.controlplane.admin.security import Tokens
from gateway.controlplane.configuration.reading import parse
from gateway.controlplane.events import Events
from gateway.controlplane.rollouts.commands import Commands
from tests.controlplane.conftest import (
    FILE,
    ScriptedView,
    make_publisher,
    make_rollouts,
    no_metrics,
)
from tests.controlplane.memory_store import MemoryStore

# Loaded where it is used: it takes seconds, of every process that collects tests.
HAS_SCHEMATHESIS = importlib.util.find_spec("schemathesis") is not None
ASKED = [operation.name for operation in OPERATIONS if operation.answer != "EventStream"]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The root of an admin listener that runs in a thread of its own."""
    loop = asyncio.new_event_loop()
    ready: list[str] = []

    async def serve() -> None:
        read, document = parse(FILE)
        events = Events()
        publisher = make_publisher(MemoryStore(), read, events)
        publisher.start(document, why="start")
        parts = AdminParts(
            publisher,
            read,
            ScriptedView(),
            events,
            Tokens(),
            no_metrics,
            lambda: True,
            rollouts := make_rollouts(publisher, events),
            Commands(rollouts, publisher),
        )
        bound = socket.create_server(("127.0.0.1", 0))
        await AdminListener(admin_application(parts), bound).start()
        ready.append(f"http://127.0.0.1:{bound.getsockname()[1]}")

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(serve(), loop).result(60)
    yield ready[0]
    loop.call_soon_threadsafe(loop.stop)
    thread.join(60)


@functools.cache
def operations() -> dict[str, Any]:
    """The operations of the document by their names, as schemathesis has them."""
    import schemathesis

    schema = schemathesis.openapi.from_dict(openapi())
    found = [result.ok() for result in schema.get_all_operations()]
    return {each.definition.raw["operationId"]: each for each in found}


@pytest.mark.skipif(not HAS_SCHEMATHESIS, reason="schemathesis is not installed")
@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize("examples", [5, pytest.param(300, marks=pytest.mark.soak)])
def test_schemathesis_finds_nothing(name: str, examples: int, url: str) -> None:
    import schemathesis
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    operation = operations()[name]
    # A schema cannot know which backends exist or which ETag is current.
    excluded = [positive_data_acceptance]
    for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):

        @given(operation.as_strategy(generation_mode=mode))
        @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
        def probe(case: Any) -> None:
            case.call_and_validate(base_url=url, excluded_checks=excluded)

        try:
            probe()
        except Unsatisfiable:
            assert mode is schemathesis.GenerationMode.NEGATIVE  # nothing in it can be wrong
