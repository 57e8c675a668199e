"""Requests that share a message to a worker, and the worker's death: what had not begun is run
by the next one, once; what had begun is answered 500, and nothing is run twice."""

import signal
import socket
from collections import Counter
from collections.abc import Callable
from http.client import HTTPResponse
from pathlib import Path

import pytest

from instance.wire.marks import divide
from tests.instance.conftest import Instance, Serve, eventually
from tests.instance.loads import raw

MODELS = """
    import os, time

    def note(name, x):
        file = os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, f"{x}\\n".encode())
        os.close(file)

    def end(x):
        if x == "die":
            os._exit(1)
        if x == "hang":
            time.sleep(1000)

    class Alone:
        def setup(self, device): ...
        def predict(self, x):
            note("ran", x)
            end(x)
            return x

    class Ahead(Alone):
        decode_ahead = True

    class Decodes:
        def setup(self, device): ...
        def decode_request(self, x):
            note("ran", x)
            end(x)
            return x
        def predict(self, x):
            return x

    class DecodesBatches(Decodes):
        max_batch_size = 32

    class DecodesAhead(Decodes):
        decode_ahead = True
"""
TOGETHER = 33  # one that the worker has, and a whole message behind it


def share(
    instance: Instance, ran: Path, bodies: list[str], meanwhile: Callable[[], object] = lambda: None
) -> dict[str, tuple[int, bytes]]:
    """(status, body) of each of `bodies`, which reached the worker in few messages."""
    (worker,) = instance.workers()
    for _ in range(50):  # it learns that many fit into one
        assert instance.post("first").status_code == 200
    ran.unlink()
    worker.send_signal(signal.SIGSTOP)
    waiting: dict[str, socket.socket] = {}
    for body in bodies:
        waiting[body] = raw(instance, f'"{body}"'.encode())
    eventually(lambda: held(instance) == len(bodies))
    worker.send_signal(signal.SIGCONT)
    meanwhile()
    return {body: answer(sock) for body, sock in waiting.items()}


def held(instance: Instance) -> float:
    return instance.metric("instance_running") + instance.metric("instance_queue_depth")


def answer(sock: socket.socket) -> tuple[int, bytes]:
    with sock:
        response = HTTPResponse(sock)
        response.begin()
        return response.status, response.read()


def bodies(fatal: str) -> list[str]:
    named = [str(number) for number in range(TOGETHER)]
    named[TOGETHER // 2] = fatal
    return named


@pytest.mark.parametrize(("fatal", "status"), [("die", 500), ("hang", 504)])
@pytest.mark.parametrize("name", ["Alone", "Ahead", "Decodes", "DecodesBatches"])
def test_what_had_not_begun_when_its_worker_died_is_run_once_by_the_next(
    serve: Serve, tmp_path: Path, name: str, fatal: str, status: int
) -> None:
    # Longer than all of them need to come, for a worker that is stopped gives no sign.
    instance = serve(MODELS, name, "--timeout", "3s" if fatal == "hang" else "600s")
    answers = share(instance, tmp_path / "ran", bodies(fatal))
    ran = (tmp_path / "ran").read_text().split()
    assert Counter(ran) == Counter(list(answers))
    before = ran[: ran.index(fatal)]
    after = ran[ran.index(fatal) + 1 :]
    assert len(after) > 8
    assert answers[fatal][0] == status
    assert {answers[body] for body in after} == {(200, f'"{body}"'.encode()) for body in after}
    assert {answers[body][0] for body in before} <= {200, status}
    assert instance.metric("instance_worker_restarts_total") == 1
    eventually(lambda: held(instance) == 0)


def test_a_request_that_kills_as_it_is_decoded_ahead_fails_alone(
    serve: Serve, tmp_path: Path
) -> None:
    # As above: it is stopped until all of them have come.
    instance = serve(MODELS, "DecodesAhead", "--timeout", "600s")
    answers = share(instance, tmp_path / "ran", bodies("die"))
    assert answers.pop("die")[0] == 500
    assert Counter(status for status, _ in answers.values())[200] >= len(answers) - 1
    assert (tmp_path / "ran").read_text().split().count("die") == 1


def test_a_worker_that_is_killed_before_it_began_fails_nothing(
    serve: Serve, tmp_path: Path
) -> None:
    instance = serve(MODELS, "Alone", "--timeout", "600s")
    (worker,) = instance.workers()
    worker.send_signal(signal.SIGSTOP)
    waiting = [raw(instance, b"1") for _ in range(20)]
    eventually(lambda: held(instance) == 20)
    worker.kill()
    assert {answer(sock) for sock in waiting} == {(200, b"1")}
    assert (tmp_path / "ran").read_text().split() == ["1"] * 20


def test_who_left_meanwhile_is_not_run_by_the_next_worker(serve: Serve, tmp_path: Path) -> None:
    instance = serve(MODELS, "Alone", "--timeout", "600s")
    (worker,) = instance.workers()
    worker.send_signal(signal.SIGSTOP)
    stays, leaves = raw(instance, b"1"), raw(instance, b"2")
    eventually(lambda: held(instance) == 2)
    leaves.close()
    eventually(lambda: 'code="499"' in instance.get("/metrics").text)
    worker.kill()
    assert answer(stays) == (200, b"1")
    assert instance.post(3).json() == 3
    assert (tmp_path / "ran").read_text().split() == ["1", "3"]
    assert held(instance) == 0


class Sent:
    def __init__(self, id: int) -> None:
        self.id = id


@pytest.mark.parametrize(
    ("marks", "expected"),
    [
        ((0, 0), [([], [1, 2, 3]), ([], [4, 5])]),
        ((9, 0), [([], [1, 2, 3]), ([], [4, 5])]),  # answered already
        ((2, 0), [([1, 2], [3]), ([], [4, 5])]),
        ((4, 0), [([1, 2, 3], []), ([4], [5])]),
        ((1, 5), [([1], [2, 3]), ([5], [4])]),
        ((2, 1), [([1, 2], [3]), ([], [4, 5])]),
    ],
)
def test_begun_is_what_was_sent_up_to_the_mark_and_what_is_decoded_ahead(
    marks: tuple[int, int], expected: list[tuple[list[int], list[int]]]
) -> None:
    batches = [[Sent(1), Sent(2), Sent(3)], [Sent(4), Sent(5)]]
    divided = divide(batches, marks)
    assert [tuple([job.id for job in part] for part in parts) for parts in divided] == expected
