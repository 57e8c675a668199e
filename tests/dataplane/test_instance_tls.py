"""Instances behind TLS, where an answer may end or not."""

import asyncio
import socket
import ssl
import threading
from pathlib import Path

import pytest
import uvloop

from tests.dataplane.rig import Rig
from tests.harness.certificates import make_ca, make_certificate
from tests.harness.tls_instance import server_context

UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\n\r\nall there is"


def answering(listener: socket.socket, context: ssl.SSLContext, is_said: bool) -> None:
    """Answers one request until the end of the connection, and says by TLS that this is it, or
    leaves that to TCP."""
    taken, _ = listener.accept()
    with context.wrap_socket(taken, server_side=True) as session:
        session.recv(4096)
        session.sendall(UNTIL_CLOSE)
        if is_said:
            try:
                session.unwrap()
            except OSError:
                pass


@pytest.mark.parametrize("is_said", [True, False])
def test_an_answer_that_only_the_connection_ends_is_whole_if_tls_says_so(
    tmp_path: Path, is_said: bool
) -> None:
    ca = make_ca(tmp_path)
    context = server_context(make_certificate(tmp_path, "one", ca, "127.0.0.1"))

    async def ask(port: int) -> bool:
        rig = await Rig().start()
        spec = {"instances": [f"https://127.0.0.1:{port}"], "tls": {"ca": str(ca[0])}}
        route = {"match": "/", "split": {"b": 1}, "retries": {"attempts": 1}}
        rig.table({"backends": {"b": spec}, "routes": {"r": route}})
        answer = await rig.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (answer.status, answer.body) == (200, b"all there is")
        await rig.plane.tasks.close()
        await rig.stop()
        return answer.whole

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answering, args=(listener, context, is_said))
        thread.start()
        # The loop that workers run: asyncio's own does not tell the two apart.
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            assert runner.run(ask(listener.getsockname()[1])) is is_said
        thread.join()
