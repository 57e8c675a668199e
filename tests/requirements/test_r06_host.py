"""R6: one normalised host decides; what is no host is refused; the target's authority wins."""

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.harness import corpora
from tests.harness.cases import play
from tests.harness.gateway import backend, running_gateway
from tests.harness.origins import one_origin
from tests.harness.wire import parse_responses
from tests.requirements.conftest import SHARED_LOOP, Plain

pytestmark = SHARED_LOOP


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def by_host() -> AsyncIterator[Plain]:
    """A gateway with a route for each of two hosts, and one for all others."""
    routes = {
        "inside": {"match": {"path": "/", "hosts": ["inside.test"]}, "split": {"main": 1}},
        "outside": {"match": {"path": "/", "hosts": ["outside.test"]}, "split": {"main": 1}},
        "other": {"match": "/", "split": {"main": 1}},
    }
    async with one_origin() as origin:
        document = {"backends": {"main": backend(origin)}, "routes": routes}
        async with running_gateway(document) as gateway:
            yield gateway, origin


async def test_r06_every_host_row_is_routed_by_its_normalised_host_or_refused() -> None:
    rows = corpora.rows("nginx_host")
    names = sorted({r["normalised_host"] for r in rows if r["normalised_host"]})
    hosts = [name for name in names if not name.startswith("[")]
    faults = []
    async with one_origin() as origin:
        routes = {
            f"r{number}": {"match": {"path": "/", "hosts": [host]}, "split": {"main": 1}}
            for number, host in enumerate(hosts)
        }
        routes["other"] = {"match": "/", "split": {"main": 1}}
        document = {"backends": {"main": backend(origin)}, "routes": routes}
        async with running_gateway(document) as gateway:
            for row in rows:
                outcome = await play(gateway, origin, [corpora.raw(row)])
                host = row["normalised_host"]
                route = f"r{hosts.index(host)}" if host in hosts else "other"
                if why := _judged(row["verdict"], outcome, route):
                    faults.append((row["id"], why))
    assert not (unexplained := corpora.unexplained("r06", faults)), "\n".join(unexplained)


async def test_r06_an_invalid_host_is_refused_for_the_gateways_own_paths_too(
    by_host: Plain,
) -> None:
    gateway, origin = by_host
    for host, status in ((b"gw.test", 200), (b"a b", 400), (b"", 400), (b"a:99999", 400)):
        data = b"GET /-/health HTTP/1.1\r\nHost: " + host + b"\r\n\r\n"
        outcome = await play(gateway, origin, [data])
        assert outcome.statuses == [status], (host, outcome)


def _judged(verdict: str, outcome: object, route: str) -> str:
    if verdict == "reject":
        return "" if outcome.statuses == [400] and not outcome.upstream else str(outcome)
    if outcome.statuses != [200]:
        return f"refused: {outcome}"
    answer = parse_responses(outcome.answer, ["GET"], True).responses[0]
    chosen = answer.header("x-headgate-route")
    return "" if chosen == route else f"route {chosen}, not {route}"


async def test_r06_an_absolute_target_is_routed_by_its_authority_never_by_another_host(
    by_host: Plain,
) -> None:
    gateway, origin = by_host
    data = b"GET http://outside.test/x HTTP/1.1\r\nHost: inside.test\r\n\r\n"
    outcome = await play(gateway, origin, [data])
    if outcome.statuses == [400]:
        return
    answer = parse_responses(outcome.answer, ["GET"], True).responses[0]
    assert answer.header("x-headgate-route") == "outside"
    (seen,) = [each for each in origin.exchanges if each.target == b"/x"]
    assert seen.header("host") == "outside.test"
