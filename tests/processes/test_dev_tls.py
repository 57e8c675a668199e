"""`--dev-tls`: TLS for trying, without a certificate of one's own."""

import asyncio
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gateway.processes.dev_certificate import NoCertificate, dev_certificate
from gateway.processes.trusting import trusting
from tests.harness.certificates import make_ca
from tests.harness.gateway import ROOT, START_S, Gateway, complete, eventually, one_backend
from tests.harness.origins import one_origin


@pytest.fixture(autouse=True)
def needs_openssl(tmp_path: Path) -> None:
    """Skips where openssl is missing."""
    make_ca(tmp_path)


class DevTls(Gateway):
    """A gateway that was started with the switch."""

    async def start(self) -> None:
        self.write_file()
        words = ["gateway", self.named(), "--dev-tls", "--state-dir", str(self.folder / "state")]
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "gateway", *words,
                cwd=ROOT, env=self.env, start_new_session=True, **self.output(log),
            )  # fmt: skip
        await eventually(self.answers, START_S, "the gateway answers")
        self.family()

    def named(self) -> str:
        """The file, as it is named to the gateway."""
        return str(self.file)

    async def answers(self) -> bool:
        assert self.process is not None
        assert self.process.returncode is None, self.log_text()
        return (await self.client.get(f"{self.admin_url}/readyz", timeout=1)).status == 200


class Piped(DevTls):
    """One whose file is what a program writes, as in `headgate gateway <(make-it)`."""

    def named(self) -> str:
        pipe = self.folder / "pipe"
        os.mkfifo(pipe)
        threading.Thread(target=pipe.write_bytes, args=(self.file.read_bytes(),)).start()
        return str(pipe)


async def test_clients_come_by_https_and_the_admin_api_stays_as_it_was(tmp_path: Path) -> None:
    async with one_origin() as origin:
        gateway = DevTls(tmp_path, complete(one_backend(origin), {"workers": 2}), {})
        await gateway.start()
        await gateway.wait_up()
        cert = tmp_path / "state" / "dev-tls.crt"
        trust = trusting(str(cert))
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", gateway.data_port, ssl=trust, server_hostname="localhost"
        )
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        writer.close()
        await gateway.logged(f"curl --cacert {cert}")
        await gateway.logged(f"  requests  https://127.0.0.1:{gateway.data_port}")
        await gateway.stop()


def test_it_is_made_once_and_its_key_is_nobody_elses(tmp_path: Path) -> None:
    files = dev_certificate(tmp_path / "state")
    before = Path(files["cert"]).read_bytes()
    assert stat.S_IMODE(os.stat(files["key"]).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(tmp_path / "state").st_mode) == 0o700
    assert dev_certificate(tmp_path / "state") == files
    assert Path(files["cert"]).read_bytes() == before
    subprocess.run(
        ["openssl", "req", "-x509", "-key", files["key"], "-days", "1", "-subj", "/CN=old",
         "-out", files["cert"]],
        check=True, capture_output=True,
    )  # fmt: skip
    assert dev_certificate(tmp_path / "state") == files
    context = trusting(files["cert"])
    (shown,) = context.get_ca_certs()
    assert ("DNS", "localhost") in shown["subjectAltName"]
    assert ("IP Address", "127.0.0.1") in shown["subjectAltName"]


def test_what_it_lacks_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(NoCertificate, match="needs no-such-openssl, which is not installed"):
        dev_certificate(tmp_path, program="no-such-openssl")
    (tmp_path / "file").write_text("")
    with pytest.raises(NoCertificate, match="no certificate can be made in") as error:
        dev_certificate(tmp_path / "file")
    assert "\n" not in str(error.value)


def test_a_file_with_a_certificate_needs_none(tmp_path: Path) -> None:
    cert, key = make_ca(tmp_path)
    file = tmp_path / "headgate.yaml"
    file.write_text(f"gateway: {{tls: {{cert: {cert}, key: {key}}}}}\n")
    ran = subprocess.run(
        [sys.executable, "-m", "gateway", "up", str(file), "--dev-tls"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "gateway.tls names one" in ran.stderr
    assert ran.stderr.count("\n") == 1


async def test_a_file_that_comes_by_a_pipe_is_read_once(tmp_path: Path) -> None:
    async with one_origin() as origin:
        gateway = Piped(tmp_path, complete(one_backend(origin), {}), {})
        await gateway.start()
        await gateway.wait_up()
        await gateway.logged(f"  requests  https://127.0.0.1:{gateway.data_port}")
        await gateway.stop()
