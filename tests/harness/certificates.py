"""Certificates of a test's own, made by openssl; where it is missing the test is skipped."""

import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest


def _openssl(*words: str) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    subprocess.run(["openssl", *words], check=True, capture_output=True, timeout=60)


def make_ca(folder: Path, name: str = "ca") -> tuple[Path, Path]:
    """A CA: its certificate and its key."""
    cert, key = folder / f"{name}.crt", folder / f"{name}.key"
    _openssl(
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-keyout", str(key), "-out", str(cert), "-days", "2", "-subj", f"/CN={name}",
    )  # fmt: skip
    return cert, key


def make_certificate(
    folder: Path,
    name: str,
    ca: tuple[Path, Path],
    *hosts: str,
    days: int = 2,
    is_ca: bool = False,
) -> tuple[Path, Path]:
    """A certificate of `ca` for `hosts`, names or addresses, and its key; one of -1 `days` has
    expired, and one that `is_ca` vouches for others."""
    cert, key, asked = (folder / f"{name}{end}" for end in (".crt", ".key", ".csr"))
    names = [f"IP:{host}" if host[0].isdigit() else f"DNS:{host}" for host in hosts]
    _openssl(
        "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-keyout", str(key), "-out", str(asked), "-subj", f"/CN={name}",
    )  # fmt: skip
    more = folder / f"{name}.ext"
    said = [f"subjectAltName={','.join(names)}\n"] if names else []
    more.write_text("".join([*said, "basicConstraints=critical,CA:true\n"] if is_ca else said))
    _openssl(
        "x509", "-req", "-in", str(asked), "-CA", str(ca[0]), "-CAkey", str(ca[1]),
        "-CAcreateserial", "-out", str(cert), "-days", str(days), "-extfile", str(more),
    )  # fmt: skip
    return cert, key


def make_crl(folder: Path, ca: tuple[Path, Path], *revoked: Path, ended: bool = False) -> Path:
    """The list of what `ca` has `revoked`, in a new folder there; one that has `ended` says that
    there is a newer one."""
    place = Path(tempfile.mkdtemp(dir=folder))
    (place / "index").touch()
    (place / "number").write_text("01")
    told = f"[ca]\ndefault_ca=one\n[one]\ndatabase={place}/index\ncrlnumber={place}/number\n"
    (place / "conf").write_text(f"{told}default_md=sha256\ndefault_crl_days=2\n")
    mine = ("ca", "-config", str(place / "conf"), "-cert", str(ca[0]), "-keyfile", str(ca[1]))
    for cert in revoked:
        _openssl(*mine, "-revoke", str(cert))
    times = ("-crl_lastupdate", "20200101000000Z", "-crl_nextupdate", "20200102000000Z")
    _openssl(*mine, "-gencrl", "-out", str(place / "crl.pem"), *(times if ended else ()))
    return place / "crl.pem"
