"""How does one try TLS without a certificate? With one that is signed by itself, for this machine.

Made by openssl's command line, which is wherever certificates are made, and kept beside the state
until it expires. It is for trying: nobody trusts it who was not told to.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

CERT, KEY = "dev-tls.crt", "dev-tls.key"
NAMES = "DNS:localhost,IP:127.0.0.1,IP:0:0:0:0:0:0:0:1"
DAYS = 90
LEFT_S = 86_400  # one that has less than this to live is made anew
WITHIN_S = 30.0


class NoCertificate(Exception):
    """Why none can be made; the text is one clear line."""


def dev_certificate(folder: Path, program: str = "openssl") -> dict[str, str]:
    """The files of a certificate for localhost in `folder`, as `gateway.tls` has them; made where
    there is none that holds for another day. NoCertificate says why there is none."""
    cert, key = folder / CERT, folder / KEY
    if shutil.which(program) is None:
        raise NoCertificate(
            f"--dev-tls needs {program}, which is not installed; install it, or name a certificate"
            " of your own in gateway.tls"
        )
    try:
        if not (cert.exists() and key.exists() and _holds(program, cert)):
            _make(program, cert, key)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", "") or str(error)
        last = said.strip().splitlines()[-1:] or [type(error).__name__]
        raise NoCertificate(
            f"--dev-tls: no certificate can be made in {folder}: {last[0]}"
        ) from None
    return {"cert": str(cert.absolute()), "key": str(key.absolute())}


def _holds(program: str, cert: Path) -> bool:
    asked = [program, "x509", "-noout", "-checkend", str(LEFT_S), "-in", str(cert)]
    # Words of ours and a path of the operator's; no shell reads them.
    ran = subprocess.run(asked, capture_output=True, timeout=WITHIN_S)  # noqa: S603
    return ran.returncode == 0


def _make(program: str, cert: Path, key: Path) -> None:
    """Makes both in a folder that nobody else can look into, then puts them in their places."""
    cert.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cert.parent, prefix="dev-tls-") as folder:
        made_cert, made_key = Path(folder, CERT), Path(folder, KEY)
        subprocess.run(  # noqa: S603 -- the same
            [
                program, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
                "-nodes", "-days", str(DAYS), "-subj", "/CN=localhost",
                "-addext", f"subjectAltName={NAMES}",
                "-keyout", str(made_key), "-out", str(made_cert),
            ],
            check=True, capture_output=True, text=True, timeout=WITHIN_S,
        )  # fmt: skip
        made_key.chmod(0o600)
        os.replace(made_key, key)
        os.replace(made_cert, cert)
