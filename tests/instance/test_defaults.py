"""What a person's first model meets with nothing set: bursts, long predicts, large uploads."""

import asyncio
from collections import Counter

import aiohttp
import pytest

from instance.settings import Settings
from tests.instance.conftest import Instance, Serve, eventually
from tests.instance.loads import holding, together

MODELS = """
    import asyncio, pathlib, resource, time
    class Model:
        def setup(self, device): ...
        def predict(self, x):
            while pathlib.Path("hold").exists():
                time.sleep(0.005)
            time.sleep(x)
            return x

    class Async(Model):
        async def predict(self, x):
            await asyncio.sleep(x)
            return x

    class Together(Model):
        def setup(self, device):
            self.inside, self.all_inside = 0, asyncio.Event()
        async def predict(self, x):
            self.inside += 1
            if self.inside == x:
                self.all_inside.set()
            await self.all_inside.wait()
            return x

    class FirstIsSlow(Model):
        def predict(self, x):
            return super().predict(2 if x == "first" else 0.002)

    class Raw(Model):
        def decode_request(self, request: bytes):
            return len(request)
        def predict(self, x):
            return x

    class Files(Model):
        def predict(self, x):
            return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
"""


async def burst(instance: Instance, count: int, body: object) -> list[tuple[int, dict[str, str]]]:
    """(status, problem if any) of `count` requests sent at the same moment."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(instance.url, connector=connector) as session:

        async def one() -> tuple[int, dict[str, str]]:
            async with session.post("/predict", json=body) as answer:
                document = await answer.json(content_type=None)
                return answer.status, document if answer.status != 200 else {}

        return await asyncio.gather(*(one() for _ in range(count)))


def present(instance: Instance) -> float:
    return instance.metric("instance_running") + instance.metric("instance_queue_depth")


@pytest.mark.parametrize(("name", "seconds"), [("Model", 0.004), ("Async", 0.1)])
async def test_a_burst_of_a_thousand_is_answered(serve: Serve, name: str, seconds: float) -> None:
    instance = serve(MODELS, name)
    with holding(instance):  # all come before the first is done: whatever that takes is not known
        asked = asyncio.create_task(burst(instance, 1000, seconds))
        await asyncio.to_thread(eventually, lambda: present(instance) == 1000 or asked.done())
    answers = await asked
    assert Counter(status for status, _ in answers) == {200: 1000}


async def test_an_async_model_works_on_all_that_wait_at_once(serve: Serve) -> None:
    instance = serve(MODELS, "Together", "--timeout", "60s")
    answers = await burst(instance, 500, 500)  # none of which is done before all have begun
    assert Counter(status for status, _ in answers) == {200: 500}


async def test_a_first_predict_that_takes_long_refuses_nobody_for_it(serve: Serve) -> None:
    instance = serve(MODELS, "FirstIsSlow", "--max-wait", "60s")
    assert instance.post("first").status_code == 200
    with holding(instance):  # 500 times what the first took are far more than a minute
        asked = asyncio.create_task(burst(instance, 500, "next"))
        await asyncio.to_thread(eventually, lambda: present(instance) == 500 or asked.done())
    answers = await asked
    assert Counter(status for status, _ in answers) == {200: 500}


async def test_who_would_wait_longer_than_is_within_reason_is_refused_and_told_the_setting(
    serve: Serve,
) -> None:
    instance = serve(MODELS, "Model", "--max-wait", "2s")
    for _ in range(3):
        instance.post(0.02)
    refusals = 'instance_requests_total{code="503"}'
    with holding(instance):  # nobody makes room meanwhile
        asked = asyncio.create_task(burst(instance, 400, 0.02))
        await asyncio.to_thread(
            eventually, lambda: present(instance) + instance.metric(refusals) == 400
        )
    answers = await asked
    taken = [status for status, _ in answers if status == 200]
    assert 64 < len(taken) <= 2 / 0.02 + 2  # at the most that those are who are taught, and ahead
    refused = [problem for status, problem in answers if status == 503]
    assert len(taken) + len(refused) == 400
    assert {problem["code"] for problem in refused} == {"queue_full"}
    assert all("longer than 2 s (--max-wait)" in problem["detail"] for problem in refused)


def test_waiting_bodies_are_bounded_together_and_the_setting_is_named(serve: Serve) -> None:
    instance = serve(MODELS, "Raw", "--max-queue-bytes", "4MiB", "--workers", "1")
    content = b"x" * (1 << 20)
    answers = together([lambda: instance.post(content=content)] * 30)
    assert {answer.status_code for answer in answers} <= {200, 503}
    for answer in answers:
        if answer.status_code == 503:
            assert "(--max-queue-bytes)" in answer.json()["detail"]


def test_an_upload_of_100_mib_is_taken_and_what_is_too_large_names_the_setting(
    serve: Serve,
) -> None:
    instance = serve(MODELS, "Raw")
    assert instance.post(content=b"x" * (100 << 20)).json() == 100 << 20
    small = serve(MODELS, "Raw", "--max-body", "1KiB")
    refused = small.post(content=b"x" * 1025)
    assert (refused.status_code, "(--max-body)" in refused.json()["detail"]) == (413, True)


def test_a_long_predict_is_not_ended_and_one_that_is_names_the_setting(serve: Serve) -> None:
    assert Settings("m:M").timeout_s >= 600
    instance = serve(MODELS, "Model", "--timeout", "0.3s")
    late = instance.post(5)
    assert (late.status_code, "(--timeout)" in late.json()["detail"]) == (504, True)
    instance.wait_for(r"hung for 0\.3 s \(--timeout\)")


def test_who_listens_for_this_machine_only_says_so_and_how_to_change_it(serve: Serve) -> None:
    instance = serve(MODELS)
    instance.wait_for(r"listening on http://127\.0\.0\.1:\d+, for this machine only \(--host 0")
    everywhere = serve(MODELS, "Model", "--host", "0.0.0.0")
    assert not [line for line in everywhere.log if "this machine only" in line]


def test_a_model_has_as_many_descriptors_as_its_user_said(serve: Serve) -> None:
    import resource

    assert serve(MODELS, "Files").post(1).json() == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
