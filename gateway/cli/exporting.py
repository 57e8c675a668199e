"""`headgate export`: the live table as a configuration file.

`headgate check` accepts it, and to apply it changes nothing. Comments of a file that it replaces
are lost, and neither a token nor a password is ever in it.
"""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from gateway.cli import finding, screen
from gateway.cli.refusals import Refusal
from gateway.controlplane.configuration.yaml_source import YamlError, read, written
from gateway.controlplane.store.names import MADE
from gateway.core.deltas import SPARE
from gateway.core.placement import unplaced
from gateway.processes.console import write

SECRET = ("token", "viewer_token")
ETCD_PASSWORD = "ETCD_PASSWORD"  # noqa: S105 -- a variable's name


def export(options: SimpleNamespace) -> int:
    """Prints the table with its live weights, below the settings of the gateway's file."""
    table = finding.client(options).table()
    file = options.file
    if file is None and not options.url and (found := finding.running(options)):
        its = found.file
        if its is not None and its.suffix == ".py":  # what was made of it has the settings
            its = found.place / MADE
        file = its if its and its.exists() else None
    backends = unplaced({}, {"backends": table.get("backends") or {}})["backends"]
    document = {"backends": backends, "routes": table.get("routes") or {}}
    document |= {section: table[section] for section in SPARE if table.get(section)}
    settings = _settings(Path(file)) if file else {}
    for key in [key for key in SECRET if settings.pop(key, None)]:
        write(sys.stderr, f"left out: gateway.{key}; give it as HEADGATE_{key.upper()}")
    etcd = settings.get("etcd")
    if isinstance(etcd, dict) and isinstance(etcd.get("password"), str):
        settings["etcd"] = {**etcd, "password": {"env": ETCD_PASSWORD}}
        write(sys.stderr, f"left out: gateway.etcd.password; give it as {ETCD_PASSWORD}")
    if settings:
        document = {"gateway": settings, **document}
    if options.output == "json":
        screen.printed(document, "json")
        return 0
    print(f"# `headgate export` of revision {table.get('revision')}\n{written(document)}", end="")
    return 0


def _settings(file: Path) -> dict[str, Any]:
    """The `gateway:` section of `file`."""
    try:
        if not (text := file.read_text("utf-8-sig")):
            raise Refusal(f"{file} is empty, its settings are gone: write to another file first")
        value = read(text).value
    except YamlError as error:
        raise Refusal(f"{file}:{error.line}: {error.detail}") from None
    section = value.get("gateway") if isinstance(value, dict) else None
    return dict(section) if isinstance(section, dict) else {}
