"""What openssl's own client finds out about the listener, and what half-open handshakes cost."""

import asyncio
import os
import resource
import signal
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gateway.processes.trusting import trusting
from tests.harness.certificates import make_ca, make_certificate
from tests.harness.gateway import eventually, one_backend
from tests.harness.origins import one_origin
from tests.harness.tls_gateway import Files, Tls, put, tls_gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")
GET = "GET / HTTP/1.1\r\nHost: gw.test\r\nConnection: close\r\n\r\n"
LIMITED = ("sh", "-c", 'ulimit -n 256 && exec "$@"', "sh")
# All that OpenSSL knows but what the gateway speaks.
OTHERS = "ALL:COMPLEMENTOFALL:!ECDHE+AESGCM:!ECDHE+CHACHA20:@SECLEVEL=0"
SPOKEN = (
    "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("proofs")
    ca = make_ca(folder)
    return {
        "folder": folder,
        "ca": ca[0],
        "one": make_certificate(folder, "one", ca, "127.0.0.1"),
        "other": make_certificate(folder, "other", ca, "127.0.0.1"),
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def live(made: dict[str, Any]) -> AsyncIterator[tuple[Tls, Files]]:
    async with one_origin() as origin:
        async with tls_gateway(
            made["folder"], one_backend(origin), made["one"], workers=2
        ) as found:
            yield found


@pytest.fixture
def gateway(live: tuple[Tls, Files]) -> Tls:
    return live[0]


async def s_client(
    gateway: Tls, *words: str, said: str = GET, commands: bool = False
) -> tuple[int, str]:
    """What openssl's client says of a connection on which `said` is sent, and its exit code; with
    `commands` it takes a line `R` for one."""
    words = words if commands else (*words, "-ign_eof")
    process = await asyncio.create_subprocess_exec(
        "openssl", "s_client", "-connect", f"127.0.0.1:{gateway.data_port}", *words,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(60):
        told, _ = await process.communicate(said.encode())
    return process.returncode or 0, told.decode(errors="replace")


@pytest.mark.parametrize(
    ("words", "version"),
    [
        (("-tls1", "-cipher", "ALL:@SECLEVEL=0"), ""),
        (("-tls1_1", "-cipher", "ALL:@SECLEVEL=0"), ""),
        (("-tls1_2",), "TLSv1.2"),
        (("-tls1_3",), "TLSv1.3"),
    ],
)
async def test_only_versions_from_1_2_on_are_spoken(
    gateway: Tls, words: tuple[str, ...], version: str
) -> None:
    code, told = await s_client(gateway, *words)
    if version:
        assert f"New, {version}, Cipher is " in told
        assert "HTTP/1.1 200" in told
        assert "Compression: NONE" in told
    else:
        assert code != 0
        assert "Cipher is (NONE)" in told
        assert "HTTP/1.1" not in told


async def test_only_ciphers_with_forward_secrecy_and_authentication_are_spoken(
    gateway: Tls,
) -> None:
    code, told = await s_client(gateway, "-tls1_2", "-cipher", OTHERS)
    assert (code, "Cipher is (NONE)" in told) == (1, True), told
    for cipher in SPOKEN:
        _, told = await s_client(gateway, "-tls1_2", "-cipher", cipher)
        assert f"Cipher is {cipher}" in told


async def test_a_client_cannot_begin_the_handshake_anew(gateway: Tls) -> None:
    _, told = await s_client(gateway, "-tls1_2", said=f"R\n{GET}", commands=True)
    assert "RENEGOTIATING" in told
    assert "no renegotiation" in told
    assert "HTTP/1.1 200" not in told


async def test_nothing_is_read_before_the_handshake_is_over(gateway: Tls, tmp_path: Path) -> None:
    session, early = str(tmp_path / "session"), tmp_path / "early"
    early.write_text(GET)
    _, told = await s_client(gateway, "-tls1_3", "-sess_out", session)
    assert "Max Early Data: 0" in told
    again = ("-tls1_3", "-sess_in", session, "-early_data", str(early))
    _, told = await s_client(gateway, *again)
    assert "Early data was accepted" not in told
    assert told.count("HTTP/1.1 200") == 1, told


async def test_who_is_slow_to_agree_on_tls_is_cut_off_by_the_head_timer(
    made: dict[str, Any], tmp_path: Path
) -> None:
    """Whether nothing is said, or a byte now and then: the time is for the whole handshake."""
    async with one_origin() as origin:
        async with tls_gateway(tmp_path, one_backend(origin), made["one"], head_timeout="1s") as (
            gateway,
            _,
        ):
            both = await asyncio.gather(*(_drip(gateway.data_port, pause) for pause in (0.0, 0.1)))
    assert all(took_s < 15.0 for took_s in both), both


async def _drip(port: int, pause_s: float) -> float:
    """After how long the gateway ends a connection on which a greeting comes bit by bit, or
    nothing; in seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    began, ended = time.monotonic(), asyncio.create_task(reader.read())
    for byte in _client_hello():
        if pause_s:
            writer.write(bytes([byte]))
        await asyncio.wait({ended}, timeout=pause_s or 30.0)
        if ended.done():
            break
    writer.close()
    assert ended.done(), "it took a whole handshake, byte by byte"
    return time.monotonic() - began


def _client_hello() -> bytes:
    """The first message of a handshake."""
    outgoing = ssl.MemoryBIO()
    session = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="a")
    with pytest.raises(ssl.SSLWantReadError):
        session.do_handshake()
    return outgoing.read()


class Crowd:
    """Connections that never agree on TLS: they say nothing, or the half of a greeting."""

    def __init__(self, port: int) -> None:
        self._port, self._half = port, _client_hello()[:80]
        self._writers: list[asyncio.StreamWriter] = []

    async def grow(self, count: int) -> None:
        for number in range(count):
            _, writer = await asyncio.open_connection("127.0.0.1", self._port)
            if number % 2:
                writer.write(self._half)
            self._writers.append(writer)

    def leave(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


async def answered(gateway: Tls, context: ssl.SSLContext) -> bool:
    """Whether a client that comes now is served."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.data_port, ssl=context)
        writer.write(GET.encode())
        answer = await reader.read()
        writer.close()
    except OSError:
        return False
    return answer.startswith(b"HTTP/1.1 200 ")


async def test_half_open_handshakes_keep_nobody_out_where_descriptors_are_few(
    made: dict[str, Any], tmp_path: Path
) -> None:
    """300 of them on 256 descriptors, and none would time out before the test has."""
    context = trusting(str(made["ca"]))
    async with one_origin() as origin:
        async with tls_gateway(
            tmp_path, one_backend(origin), made["one"], prefix=LIMITED, head_timeout="10m"
        ) as (gateway, _):
            crowd = Crowd(gateway.data_port)
            for _ in range(3):
                await crowd.grow(100)
                for _ in range(5):
                    assert await answered(gateway, context)
            assert (await gateway.admin("GET", "/admin/v1/status")).status == 200
            crowd.leave()
            assert await answered(gateway, context)


async def test_clients_that_rest_keep_nobody_out_where_descriptors_are_few(
    made: dict[str, Any], tmp_path: Path
) -> None:
    """None of them would be ended by `keep_alive` before the test is over."""
    context = trusting(str(made["ca"]))
    async with one_origin() as origin:
        async with tls_gateway(tmp_path, one_backend(origin), made["one"], prefix=LIMITED) as (
            gateway,
            _,
        ):
            writers = []
            for _ in range(150):
                with suppress(OSError):  # who comes when none has rested yet is turned away
                    _, writer = await asyncio.open_connection(
                        "127.0.0.1", gateway.data_port, ssl=context
                    )
                    writers.append(writer)
            await eventually(lambda: answered(gateway, context), what="room for one more")
            for _ in range(5):
                assert await answered(gateway, context)
            for writer in writers:
                writer.transport.abort()


@pytest.mark.soak
async def test_five_thousand_half_open_handshakes(made: dict[str, Any], tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 8192:
        pytest.skip("this machine lets a process open too few files")
    with ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 8192), hard))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        context = trusting(str(made["ca"]))
        async with one_origin() as origin:
            async with tls_gateway(
                tmp_path, one_backend(origin), made["one"], head_timeout="10m"
            ) as (gateway, _):
                crowd = Crowd(gateway.data_port)
                for _ in range(5):
                    await crowd.grow(1000)
                    for _ in range(20):
                        assert await answered(gateway, context)
                crowd.leave()


async def swapped(
    gateway: Tls, live: Files, made: dict[str, Any], times: int, workers: int
) -> tuple[int, list[str]]:
    """How many requests were answered while the certificate was replaced `times` times, ten for
    each at least, and what went wrong with others; half of them on connections of their own."""
    context = trusting(str(made["ca"]))
    done, failed, is_over = 0, [], asyncio.Event()

    async def load(is_kept: bool) -> None:
        nonlocal done
        reader = writer = None
        while not is_over.is_set():
            try:
                if writer is None:
                    reader, writer = await asyncio.open_connection(
                        "127.0.0.1", gateway.data_port, ssl=context
                    )
                assert reader is not None
                writer.write(b"POST / HTTP/1.1\r\nHost: gw.test\r\nContent-Length: 2\r\n\r\nhi")
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].split()[0])
                await reader.readexactly(length)
                if not head.startswith(b"HTTP/1.1 200 "):
                    failed.append(head.decode())
            except (OSError, asyncio.IncompleteReadError) as error:
                failed.append(repr(error))
                writer = None
            done += 1
            if not is_kept and writer is not None:
                writer.close()
                writer = None

    async def shown() -> set[bytes]:
        found = set()
        for _ in range(4 * workers):
            _, writer = await asyncio.open_connection("127.0.0.1", gateway.data_port, ssl=context)
            found.add(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
            writer.close()
        return found

    loads = [asyncio.create_task(load(bool(number % 2))) for number in range(4)]
    try:
        for number in range(times):
            name = "other" if number % 2 == 0 else "one"
            put(made[name], live)
            wanted = {ssl.PEM_cert_to_DER_cert(made[name][0].read_text())}

            async def is_new(wanted: set[bytes] = wanted) -> bool:
                return await shown() == wanted

            await eventually(is_new, what=f"certificate {number + 1} is shown", every_s=0.1)
        await eventually(lambda: done > 10 * times)
    finally:
        is_over.set()
        await asyncio.gather(*loads)
    return done, failed


async def test_ten_certificates_under_load_cost_no_request(
    live: tuple[Tls, Files], made: dict[str, Any]
) -> None:
    done, failed = await swapped(*live, made, 10, 2)
    assert failed == [], (failed[:5], done)


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_a_hundred_certificates_under_load_cost_no_request(
    live: tuple[Tls, Files], made: dict[str, Any]
) -> None:
    done, failed = await swapped(*live, made, 100, 2)
    assert failed == [], (failed[:5], done)


class SlowClient:
    """A client by TLS that sends its greeting in two parts, with time between."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._session = context.wrap_bio(
            self._incoming, self._outgoing, server_hostname="127.0.0.1"
        )

    async def begin(self, port: int) -> None:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", port)
        with pytest.raises(ssl.SSLWantReadError):
            self._session.do_handshake()
        greeting = self._outgoing.read()
        self._rest = greeting[80:]
        self._writer.write(greeting[:80])
        await self._writer.drain()

    async def finish(self) -> bytes:
        """Agrees on TLS and asks; what came until the end of the connection."""
        self._writer.write(self._rest)
        await self._until(self._session.do_handshake)
        self._session.write(GET.encode())
        answer = b""
        while True:
            try:
                more = await self._until(lambda: self._session.read(4096))
            except (ssl.SSLZeroReturnError, asyncio.IncompleteReadError):
                more = b""
            if not more:
                self._writer.close()
                return answer
            answer += more

    async def _until(self, step: Callable[[], Any]) -> Any:
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                self._writer.write(self._outgoing.read())
                data = await self._reader.read(65536)
                if not data:
                    raise asyncio.IncompleteReadError(b"", None) from None
                self._incoming.write(data)
            finally:
                self._writer.write(self._outgoing.read())


async def test_who_is_agreeing_on_tls_when_a_worker_goes_is_answered(
    made: dict[str, Any], tmp_path: Path
) -> None:
    context = trusting(str(made["ca"]))
    async with one_origin() as origin:
        document, patient = one_backend(origin), {"head_timeout": "60s", "drain": "60s"}
        async with tls_gateway(tmp_path, document, made["one"], **patient) as (gateway, _):
            (before,) = await gateway.worker_pids()
            slow = SlowClient(context)
            await slow.begin(gateway.data_port)
            assert await answered(gateway, context)  # so the first of two was accepted, too
            os.kill(before, signal.SIGTERM)

            async def replaced() -> bool:
                return await gateway.worker_pids() not in ([before], [])

            await eventually(replaced, what="another worker is there")
            for _ in range(50):  # by then the one before accepts nobody more
                assert await answered(gateway, context)
            assert (await slow.finish()).startswith(b"HTTP/1.1 200 ")
