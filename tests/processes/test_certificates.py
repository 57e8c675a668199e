"""TLS on the listener: what it speaks, whose certificate it shows, what becomes of new files."""

import asyncio
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from gateway.clients.addresses import trust
from gateway.controlplane.store.etcd.client import Access
from gateway.controlplane.watch.expiry import EXPIRY, ShownCertificates
from gateway.core.credentials import Tls as InstanceTls
from gateway.processes.accepting import Acceptor
from gateway.processes.certificates import (
    MAX_BYTES,
    ON_FAULT,
    Certificate,
    CertificateError,
    LastCertificates,
)
from gateway.processes.credentials import client_context, why_not_trusted
from gateway.processes.handshakes import REASONS, reason_of
from gateway.processes.tasks import Tasks
from gateway.processes.trusting import trusting as believing
from gateway.telemetry.book import shared_memory
from tests.harness.certificates import make_ca, make_certificate, make_crl
from tests.harness.gateway import Gateway, complete, eventually, one_backend
from tests.harness.origins import Exchange, one_origin
from tests.harness.orphans import kill_all
from tests.harness.tls_gateway import Tls

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def told(exchange: Exchange) -> None:
    """Answers with the scheme that the gateway says the client came by."""
    await exchange.read()
    exchange.reply(200, (exchange.header("x-forwarded-proto") or "").encode())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tls")
    ca = make_ca(folder)
    cert, key = make_certificate(folder, "first", ca, "127.0.0.1", "gw.test")
    other = make_certificate(folder, "second", ca, "127.0.0.1", "gw.test")
    mine = make_certificate(folder, "mine", ca)
    return {
        "ca": ca[0], "cert": cert, "key": key, "other": other[0], "other_key": other[1],
        "mine": mine[0], "my_key": mine[1], "folder": folder,
    }  # fmt: skip


def trusting(files: dict[str, Path], **versions: Any) -> ssl.SSLContext:
    context = believing(str(files["ca"]))
    for name, version in versions.items():
        setattr(context, name, version)
    return context


async def ask(port: int, context: ssl.SSLContext, head: bytes = b"") -> tuple[bytes, ssl.SSLObject]:
    """An answer, and the connection that it came by."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    session: ssl.SSLObject = writer.get_extra_info("ssl_object")
    writer.write(b"GET / HTTP/1.1\r\nHost: gw.test\r\nConnection: close\r\n%b\r\n" % head)
    answer = await reader.read()
    writer.close()
    return answer, session


def agree(
    client: ssl.SSLContext, server: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> tuple[ssl.SSLSession | None, bool]:
    """The client's session after a handshake in memory, and whether `session` was resumed."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(down, up, server_hostname="gw.test", session=session)
    theirs = server.wrap_bio(up, down, server_side=True)
    waiting = [ours, theirs]
    while waiting:
        for each in tuple(waiting):
            try:
                each.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(each)
    theirs.write(b"x")
    assert ours.read(1) == b"x"
    return ours.session, bool(ours.session_reused)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(files: dict[str, Path]) -> AsyncIterator[Gateway]:
    folder = files["folder"]
    live = {"cert": str(folder / "live.crt"), "key": str(folder / "live.key")}
    shutil.copy(files["cert"], live["cert"])
    shutil.copy(files["key"], live["key"])
    async with one_origin(told) as origin:
        settings = {"tls": live, "workers": 2, "head_timeout": "60s"}  # one idles through a test
        document = complete(one_backend(origin), settings)
        made = Tls(folder, document, {})
        try:
            await made.start()
            await made.wait_up()
            yield made
            await made.stop()
        finally:
            await made.client.close()
            kill_all(made.family() if made.process else ())


async def test_clients_come_by_tls_and_instances_are_told_so(
    gateway: Gateway, files: dict[str, Path]
) -> None:
    context = trusting(files)
    context.set_alpn_protocols(["h2", "http/1.1"])
    answer, session = await ask(gateway.data_port, context, b"X-Forwarded-Proto: http\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"https")
    assert session.version() == "TLSv1.3"
    assert session.selected_alpn_protocol() == "http/1.1"
    older = trusting(files, maximum_version=ssl.TLSVersion.TLSv1_2)
    _, session = await ask(gateway.data_port, older)
    cipher = session.cipher()
    assert cipher is not None
    assert cipher[0].startswith("ECDHE-")
    await gateway.logged("headgate is ready")
    await gateway.logged(f"  requests  https://127.0.0.1:{gateway.data_port}\n")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
@pytest.mark.parametrize(
    ("version", "ciphers"),
    [
        (ssl.TLSVersion.TLSv1_1, "ALL:@SECLEVEL=0"),
        (ssl.TLSVersion.TLSv1_2, "AES128-SHA:AES256-SHA"),
    ],
)
async def test_what_is_old_is_not_spoken(
    gateway: Gateway, files: dict[str, Path], version: ssl.TLSVersion, ciphers: str
) -> None:
    context = trusting(files)
    context.set_ciphers(ciphers)
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = version
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await ask(gateway.data_port, context)


async def test_plain_http_gets_no_answer_from_tls(gateway: Gateway) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.data_port)
    writer.write(b"GET / HTTP/1.1\r\nHost: gw.test\r\n\r\n")
    try:
        assert b"200" not in await reader.read()
    except ConnectionError:
        pass
    writer.close()


async def test_a_new_certificate_is_taken_over_and_a_broken_one_is_told(
    gateway: Gateway, files: dict[str, Path]
) -> None:
    folder, context = files["folder"], trusting(files)

    async def shown() -> bytes:
        _, session = await ask(gateway.data_port, context)
        found = session.getpeercert(binary_form=True)
        assert found is not None
        return found

    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.data_port, ssl=context)
    first = await shown()
    for name, end in (("other", ".crt"), ("other_key", ".key")):
        shutil.copy(files[name], folder / "new")
        (folder / "new").replace(folder / f"live{end}")

    async def taken_over() -> bool:  # which of two workers answers is chance
        return first not in {await shown() for _ in range(20)}

    await eventually(taken_over, what="both workers show the new certificate")
    second = await shown()
    assert {await shown() for _ in range(8)} == {second}
    await eventually(lambda: "took over a new certificate" in gateway.log_text())
    (folder / "live.crt").write_text("no certificate")
    await eventually(lambda: "the certificate before is kept" in gateway.log_text())
    assert await shown() == second
    writer.write(b"GET / HTTP/1.1\r\nHost: gw.test\r\nConnection: close\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
    writer.close()
    shutil.copy(files["other"], folder / "live.crt")


async def test_who_takes_a_workers_place_shows_the_last_certificate_while_files_are_broken(
    gateway: Gateway, files: dict[str, Path]
) -> None:
    context, pids = trusting(files), await gateway.worker_pids()
    live = files["folder"] / "live.crt"
    sound = live.read_bytes()
    live.write_text("no certificate")
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    await eventually(lambda: not any(map(psutil.pid_exists, pids)), what="the workers are gone")
    for _ in range(8):  # on either's socket, where a connection waits for who takes its place
        answer, _ = await ask(gateway.data_port, context)
        assert answer.startswith(b"HTTP/1.1 200 ")
    live.write_bytes(sound)


async def test_what_two_wrote_at_once_is_no_certificate() -> None:
    memory = shared_memory()
    kept = LastCertificates(memory)
    assert kept.get("tls") == {}
    kept.keep("tls", {"cert": b"one\n\xff", "key": b"k"})
    kept.keep("admin_tls", {"cert": b"two"})
    assert LastCertificates(memory).get("tls") == {"cert": b"one\n\xff", "key": b"k"}
    assert kept.get("admin_tls") == {"cert": b"two"}
    os.pwrite(memory, b"x", 80)
    assert kept.get("tls") == {}
    assert kept.get("admin_tls") == {"cert": b"two"}
    os.close(memory)


async def test_what_becomes_of_a_file_is_told_by_one_of_all_processes(
    files: dict[str, Path],
) -> None:
    folder, memory, said = files["folder"], shared_memory(), list[str]()
    shutil.copy(files["cert"], folder / "one.crt")
    tls = {"cert": str(folder / "one.crt"), "key": str(files["key"])}
    workers = [Certificate(tls, said.append, LastCertificates(memory)) for _ in range(3)]
    for content in (b"none", files["cert"].read_bytes(), b"none"):
        (folder / "new").write_bytes(content)
        (folder / "new").replace(folder / "one.crt")
        for worker in workers:
            worker.look()
    Certificate(tls, said.append, LastCertificates(memory))  # the place of one that died
    assert [line.rpartition("; ")[2].rpartition(": ")[2] for line in said] == [
        "the certificate before is kept",
        "took over a new certificate",
        "the certificate before is kept",
    ]
    os.close(memory)


async def test_what_was_kept_makes_the_certificate_that_it_was(files: dict[str, Path]) -> None:
    tls = {"cert": str(files["cert"]), "key": str(files["key"]), "client_ca": str(files["ca"])}
    memory, said = shared_memory(), list[str]()
    last = LastCertificates(memory)
    Certificate(tls, said.append, last)
    broken = {**tls, "cert": "/nowhere/a"}
    with pytest.raises(CertificateError):
        Certificate(broken, said.append, last, "admin_tls")
    again = Certificate(broken, said.append, last)
    assert said == ["cert /nowhere/a: No such file or directory; the certificate before is kept"]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"in")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=again.context)
    mine = trusting(files)
    mine.load_cert_chain(files["mine"], files["my_key"])
    assert (await ask(server.sockets[0].getsockname()[1], mine))[0] == b"in"
    server.close()
    os.close(memory)


async def test_a_large_client_ca_is_kept_as_well(files: dict[str, Path], tmp_path: Path) -> None:
    """As one with the lists of all that were revoked is."""
    large, memory = tmp_path / "large.crt", shared_memory()
    large.write_bytes(b"# as long as a list of many\n" * 200_000 + files["ca"].read_bytes())
    assert large.stat().st_size > 5 << 20
    tls = {"cert": str(files["cert"]), "key": str(files["key"]), "client_ca": str(large)}
    Certificate(tls, print, LastCertificates(memory))
    large.write_text("no certificate")
    with_it = Certificate(tls, print, LastCertificates(memory)).context
    mine = trusting(files)
    mine.load_cert_chain(files["mine"], files["my_key"])
    assert agree(mine, with_it)[0] is not None
    os.close(memory)


async def test_a_file_larger_than_what_is_kept_is_refused(
    files: dict[str, Path], tmp_path: Path
) -> None:
    large = tmp_path / "large.crt"
    shutil.copy(files["ca"], large)
    os.truncate(large, MAX_BYTES + 1)
    tls = {"cert": str(files["cert"]), "key": str(files["key"]), "client_ca": str(large)}
    with pytest.raises(CertificateError, match=f"client_ca {large}: is larger than 64 MiB"):
        Certificate(tls, print)


async def test_with_a_client_ca_only_its_own_come_in(files: dict[str, Path]) -> None:
    tls = {"cert": str(files["cert"]), "key": str(files["key"]), "client_ca": str(files["ca"])}
    certificate = Certificate(tls, print)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"in")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=certificate.context)
    port = server.sockets[0].getsockname()[1]
    with_one = trusting(files)
    with_one.load_cert_chain(files["mine"], files["my_key"])
    assert (await ask(port, with_one))[0] == b"in"
    try:
        assert (await ask(port, trusting(files)))[0] != b"in"
    except (ssl.SSLError, ConnectionError):
        pass
    server.close()


async def test_a_client_ca_may_be_one_below_a_root_and_then_lets_in_its_own_alone(
    files: dict[str, Path], tmp_path: Path
) -> None:
    root = files["ca"], files["ca"].with_suffix(".key")
    ours = make_certificate(tmp_path, "ours", root, is_ca=True)
    theirs = make_certificate(tmp_path, "theirs", root, is_ca=True)
    tls = {"cert": str(files["cert"]), "key": str(files["key"]), "client_ca": str(ours[0])}
    server = Certificate(tls, print).context
    for ca, comes_in in ((ours, True), (theirs, False), (root, False)):
        cert, key = make_certificate(tmp_path, "client", ca)
        with cert.open("a") as chain:
            chain.write(ca[0].read_text())
        client = trusting(files, maximum_version=ssl.TLSVersion.TLSv1_2)
        client.load_cert_chain(cert, key)
        if comes_in:
            agree(client, server)
        else:
            with pytest.raises(ssl.SSLError):
                agree(client, server)


async def test_who_was_revoked_by_a_list_beside_the_client_ca_comes_in_no_more(
    files: dict[str, Path], tmp_path: Path
) -> None:
    ca, both = make_ca(tmp_path, "clients"), tmp_path / "both.pem"
    well, lost = (make_certificate(tmp_path, name, ca) for name in ("well", "lost"))
    shutil.copy(ca[0], both)
    tls = {"cert": str(files["cert"]), "key": str(files["key"]), "client_ca": str(both)}
    memory, said = shared_memory(), list[str]()
    last = LastCertificates(memory)
    certificate = Certificate(tls, said.append, last)

    def comes_in(whose: tuple[Path, Path], context: ssl.SSLContext) -> str:
        client = trusting(files, maximum_version=ssl.TLSVersion.TLSv1_2)
        client.load_cert_chain(*whose)
        faults = list[ssl.SSLError]()
        before = ON_FAULT.set(faults.append)
        with suppress(ssl.SSLError):
            agree(client, context)
        ON_FAULT.reset(before)
        return "".join(map(reason_of, faults))

    def turned_away(context: ssl.SSLContext) -> list[str]:
        return [comes_in(whose, context) for whose in (well, lost)]

    assert turned_away(certificate.context) == ["", ""]
    for crl, expected in (
        (make_crl(tmp_path, ca, lost[0]), ["", "revoked"]),
        (make_crl(tmp_path, ca, lost[0], ended=True), ["no_crl", "no_crl"]),
        (make_crl(tmp_path, (files["ca"], files["ca"].with_suffix(".key"))), ["no_crl", "no_crl"]),
    ):
        (tmp_path / "new").write_bytes(ca[0].read_bytes() + crl.read_bytes())
        (tmp_path / "new").replace(both)
        certificate.look()
        assert turned_away(certificate.context) == expected
        kept = Certificate({**tls, "cert": "/nowhere"}, said.append, last)
        assert turned_away(kept.context) == expected
    os.close(memory)


@pytest.mark.parametrize("is_root", [True, False], ids=["a root", "below one"])
@pytest.mark.parametrize(
    "trusts",
    [
        lambda ca: client_context(InstanceTls(ca=ca)),
        lambda ca: Access(["https://127.0.0.1"], ca=ca).tls(),
        trust,
    ],
    ids=["instances", "etcd", "commands"],
)
async def test_a_ca_that_somebody_made_is_believed_whatever_the_python(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusts: Any,
    is_root: bool,
) -> None:  # fmt: skip
    """As of 3.13 the library asks for fields that few who make one with openssl write."""
    usual = ssl.create_default_context

    def of_3_13(*said: Any, **named: Any) -> ssl.SSLContext:
        context = usual(*said, **named)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", of_3_13)
    ca = files["ca"], files["ca"].with_suffix(".key")
    if not is_root:
        ca = make_certificate(tmp_path, "below", ca, is_ca=True)
    cert, key = make_certificate(tmp_path, "theirs", ca, "gw.test")
    shown = Certificate({"cert": str(cert), "key": str(key)}, print).context
    with pytest.raises(ssl.SSLCertVerificationError):
        agree(of_3_13(cafile=str(ca[0])), shown)
    assert agree(trusts(str(ca[0])), shown)[0] is not None


async def test_an_instance_whose_certificate_was_revoked_is_not_trusted(
    files: dict[str, Path], tmp_path: Path
) -> None:
    ca = make_ca(tmp_path, "instances")
    well, lost = (make_certificate(tmp_path, name, ca, "gw.test") for name in ("well", "lost"))
    both = tmp_path / "both.pem"
    both.write_bytes(ca[0].read_bytes() + make_crl(tmp_path, ca, lost[0]).read_bytes())
    context = client_context(InstanceTls(ca=str(both)))
    servers = [
        Certificate({"cert": str(cert), "key": str(key)}, print).context
        for cert, key in (well, lost)
    ]
    agree(context, servers[0])
    with pytest.raises(ssl.SSLError) as fault:
        agree(context, servers[1])
    assert why_not_trusted(fault.value) == "is not trusted: its certificate was revoked"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_session_is_not_resumed_past_a_change_of_the_client_ca(
    files: dict[str, Path], version: ssl.TLSVersion, tmp_path: Path
) -> None:
    ca = tmp_path / "ca.crt"
    shutil.copy(files["ca"], ca)
    tls = {"cert": str(files["cert"]), "key": str(files["key"]), "client_ca": str(ca)}
    certificate = Certificate(tls, print)
    client = trusting(files, maximum_version=version)
    client.load_cert_chain(files["mine"], files["my_key"])
    first, _ = agree(client, certificate.context)
    again, is_resumed = agree(client, certificate.context, first)
    assert is_resumed
    shutil.copy(make_ca(tmp_path, "other")[0], ca)
    certificate.look()
    with pytest.raises(ssl.SSLError, match=r"VERIFY_FAILED|UNKNOWN_CA"):
        agree(client, certificate.context, again)


async def test_what_sessions_are_resumed_by_is_made_anew_twice_a_day(
    files: dict[str, Path], tmp_path: Path
) -> None:
    live, said, clock = tmp_path / "live.crt", list[str](), [0.0]
    shutil.copy(files["cert"], live)
    certificate = Certificate(
        {"cert": str(live), "key": str(files["key"])}, said.append, now=lambda: clock[0]
    )
    client = trusting(files, maximum_version=ssl.TLSVersion.TLSv1_2)
    session, _ = agree(client, certificate.context)

    def is_resumed(after_h: float) -> bool:
        clock[0] = after_h * 3600.0
        certificate.look()
        return agree(client, certificate.context, session)[1]

    assert is_resumed(11.9)
    assert not is_resumed(12.1)
    session, _ = agree(client, certificate.context)
    assert is_resumed(24.0)
    live.write_text("no certificate")
    certificate.look()
    said.clear()
    assert is_resumed(30.0), "what was taken over goes on as it is"
    shutil.copy(files["cert"], live)
    certificate.look()
    assert said == [f"{live}: took over a new certificate"]


async def test_files_that_make_no_certificate_are_told_in_one_line(files: dict[str, Path]) -> None:
    cert, key, other = str(files["cert"]), str(files["key"]), str(files["other_key"])
    for tls, says in (
        ({"cert": cert, "key": other}, "the key is not the certificate's"),
        ({"cert": cert, "key": cert}, "no PEM"),
        ({"cert": "/nowhere/a", "key": key}, "cert /nowhere/a: No such file"),
        ({"cert": cert, "key": key, "client_ca": key}, "client_ca"),
    ):
        with pytest.raises(CertificateError, match=says) as error:
            Certificate(tls, print)
        assert "\n" not in str(error.value)


async def test_a_pipe_in_the_place_of_a_file_keeps_nobody_waiting(
    files: dict[str, Path], tmp_path: Path
) -> None:
    cert, key = tmp_path / "live.crt", tmp_path / "live.key"
    shutil.copy(files["cert"], cert)
    shutil.copy(files["key"], key)
    said: list[str] = []
    certificate = Certificate({"cert": str(cert), "key": str(key)}, said.append)
    first = certificate.context
    key.unlink()
    os.mkfifo(key)
    async with asyncio.timeout(30):
        await asyncio.to_thread(certificate.look)
    assert certificate.context is first
    assert said == [f"key {key}: is no plain file; the certificate before is kept"]


async def test_who_is_turned_away_is_told_why(gateway: Gateway, files: dict[str, Path]) -> None:
    old = trusting(files, maximum_version=ssl.TLSVersion.TLSv1_2)
    old.set_ciphers("AES128-SHA")
    with pytest.raises(ssl.SSLError, match=r"(?i)alert handshake failure"):
        await ask(gateway.data_port, old)


async def test_handshakes_that_fail_are_counted_by_why_and_told(
    gateway: Gateway, files: dict[str, Path]
) -> None:
    async def failed() -> dict[str, float]:
        return (await gateway.metrics()).by("headgate_tls_handshake_failures_total", "reason")

    before = await failed()
    assert set(before) == set(REASONS), "also those of which there was none"
    old = trusting(files, maximum_version=ssl.TLSVersion.TLSv1_2)
    old.set_ciphers("AES128-SHA")
    with pytest.raises(ssl.SSLError):
        await ask(gateway.data_port, old)
    wary = ("openssl", "s_client", "-verify_return_error", "-connect")
    client = await asyncio.create_subprocess_exec(
        *wary, f"127.0.0.1:{gateway.data_port}",
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert await client.wait() != 0, "it trusts nobody of ours, and says so"
    for sent in (b"GET / HTTP/1.1\r\nHost: gw.test\r\n\r\n", b""):  # and a check of the port
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.data_port)
        writer.write(sent)
        await writer.drain()
        writer.close()

    async def all_counted() -> bool:
        after = await failed()
        more = {reason: after[reason] - before[reason] for reason in after}
        return more == dict.fromkeys(more, 0) | {"cipher": 1, "alert": 1, "no_tls": 1}

    await eventually(all_counted, what="each is counted once, and a check of the port is not")
    await gateway.logged("gateway.tls: TLS with 127.0.0.1 failed: ")


async def test_until_when_a_certificate_holds_is_shown_and_told(
    files: dict[str, Path], tmp_path: Path
) -> None:
    said: list[str] = []
    clock = [time.time()]
    last = LastCertificates(shared_memory())
    shown = ShownCertificates(last, {"tls": "tls.crt"}, said.append, lambda: clock[0])
    shown.look()
    assert shown.gauges() == {EXPIRY: {}}, "nothing is shown yet"
    assert shown.status() == {}

    def take_over(cert: Path, key: Path) -> float:
        Certificate({"cert": str(cert), "key": str(key)}, print, last)
        shown.look()
        shown.look()
        return shown.gauges()[EXPIRY]["tls",] - clock[0]

    assert 86400 < take_over(files["cert"], files["key"]) <= 2 * 86400
    assert said == []
    assert shown.status()["tls"]["state"] == "holds"
    clock[0] += 1.7 * 86400
    shown.look()
    shown.look()
    assert [line.partition(" on ")[0] for line in said] == ["tls.crt: the certificate expires"]
    about = shown.status()["tls"]
    assert (about["file"], about["state"]) == ("tls.crt", "soon")
    assert f"tls.crt: {about['says']} (gateway.tls)" == said[0]
    clock[0] -= 3 * 86400
    shown.look()
    assert "is not valid before" in said.pop()
    clock[0] = time.time()
    ca = files["ca"], files["ca"].with_suffix(".key")
    assert take_over(*make_certificate(tmp_path, "old", ca, "gw.test", days=-1)) < 0
    assert "tls.crt: the certificate has expired on " in said.pop()
    assert take_over(files["other"], files["other_key"]) > 0
    assert len(said) == 1, "each is said once, and a good one says nothing"


async def test_who_shows_no_certificate_is_told_to(files: dict[str, Path]) -> None:
    tls = {"cert": str(files["cert"]), "key": str(files["key"]), "client_ca": str(files["ca"])}
    failed: list[tuple[str, str]] = []
    with socket.create_server(("127.0.0.1", 0)) as bound:
        acceptor = Acceptor(
            bound, asyncio.Protocol, Tasks(print), at_once=1, certificate=Certificate(tls, print),
            within_s=30.0, most=lambda: 9, failed=lambda *each: failed.append(each),
        )  # fmt: skip
        acceptor.begin()
        with pytest.raises(ssl.SSLError, match=r"(?i)alert certificate required"):
            await ask(bound.getsockname()[1], trusting(files))
        await eventually(lambda: not acceptor.agreeing, what="nobody agrees any more")
        assert failed == [("no_certificate", "127.0.0.1")]
        acceptor.close()
