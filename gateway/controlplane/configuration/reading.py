"""What does a configuration file say, or what is wrong with it?

Reads one file, once, and reports every problem together with its line and a way to mend it.
It applies nothing: how a file meets a live table is `gateway.core.merging`.
"""

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from gateway.controlplane.configuration.backend_specs import BackendSpec
from gateway.controlplane.configuration.checks import cross_faults, setting_faults, size_faults
from gateway.controlplane.configuration.faults import faults_of
from gateway.controlplane.configuration.key_specs import KeySpec
from gateway.controlplane.configuration.route_specs import RouteSpec
from gateway.controlplane.configuration.schemas import File
from gateway.controlplane.configuration.settings import (
    ENVIRONMENT_PREFIX,
    Settings,
    environment_overrides,
    keys,
)
from gateway.controlplane.configuration.yaml_source import MAX_BYTES, Source, YamlError, read
from gateway.core.deltas import normalised
from gateway.core.faults import Fault, Invalid, brief, did_you_mean, pointer, readable
from gateway.core.table import Document

_EMPTY = ("empty", "is empty", "unset the variable, and what the file says holds")
SECTIONS: dict[str, type[BaseModel]] = {
    "backends": BackendSpec,
    "routes": RouteSpec,
    "keys": KeySpec,
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to mend: where (line 0: not in the file), what is wrong, and how to mend it."""

    line: int
    pointer: str
    detail: str
    hint: str = ""

    def of(self, file: str, kind: str = "") -> str:
        """`file:12: routes/digits: what is wrong; did you mean this?`, which editors can follow."""
        where = f"{file}:{self.line}: " if self.line else f"{file}: "
        place = readable(self.pointer).strip("/")
        hint = f"; {self.hint}" if self.hint else ""
        return f"{where}{kind}{brief(f'{place}: ' if place else '')}{brief(self.detail)}{hint}"


class ConfigurationError(Exception):
    """A file that cannot be used; `problems` names all that is wrong, in line order."""

    def __init__(self, path: str, problems: list[Problem]) -> None:
        self.path = path
        self.problems = sorted(problems, key=lambda problem: problem.line)
        super().__init__("\n".join(problem.of(path) for problem in self.problems))


@dataclass(frozen=True, slots=True)
class Loaded:
    """A valid file: its settings with the environment's over them, its document and its text."""

    settings: Settings
    document: Document
    path: Path
    text: str


def load(
    path: str | os.PathLike[str],
    environment: Mapping[str, str] | None = None,
    *,
    text: str | None = None,
) -> Loaded:
    """What the file at `path` says, or will say once `text` is in it; ConfigurationError names
    every problem of it."""
    text = _text(path) if text is None else text
    variables = os.environ if environment is None else environment
    try:
        settings, document = parse(text, environment=variables, name=str(path))
    except ConfigurationError:
        if Path(path).suffix != ".py":
            raise
        hint = f"to serve it: headgate up {shlex.quote(str(path))}"
        problem = Problem(0, "", "is Python code and no configuration", hint)
        raise ConfigurationError(str(path), [problem]) from None
    return Loaded(settings, document, Path(path), text)


def parse(
    text: str, *, environment: Mapping[str, str] = {}, name: str = "configuration"
) -> tuple[Settings, Document]:
    """Settings and document in `text`; ConfigurationError names every problem of it."""
    try:
        source = read(text)
    except YamlError as error:
        raise ConfigurationError(name, [Problem(error.line, "", error.detail)]) from None
    problems = [Problem(e.line, e.pointer, e.detail) for e in source.errors]
    value = source.value
    if value is None:
        # A mishap (a file that is just being written), not the wish to remove everything.
        hint = "{} says that there shall be no route"
        raise ConfigurationError(name, [Problem(0, "", "holds nothing", hint)])
    if not isinstance(value, dict):
        raise ConfigurationError(name, [Problem(1, "", "the file must be a mapping")])
    overrides = environment_overrides(environment)
    # What was to fill it in may have been missing: to take that for "none" would open what is shut.
    empty = [key for key, text in overrides.items() if not text.strip(" \t\r\n,")]
    faults = [Fault(pointer("gateway", key), *_EMPTY) for key in empty]
    values = _environment_values({key: overrides[key] for key in overrides if key not in empty})
    settings, document, found = examine(value, values)
    problems += [_problem(fault, source, overrides) for fault in [*faults, *found]]
    if problems or settings is None:
        raise ConfigurationError(name, problems)
    return settings, document


def located(loaded: Loaded, faults: list[Fault]) -> list[Problem]:
    """Each of `faults`, found in what was `loaded`, with its line, in their order."""
    source, overrides = read(loaded.text), environment_overrides(os.environ)
    found = [_problem(fault, source, overrides) for fault in faults]
    return sorted(found, key=lambda problem: problem.line)


def examine(
    value: Mapping[str, Any], overrides: Mapping[str, Any] = {}
) -> tuple[Settings | None, Document, list[Fault]]:
    """Settings, canonical document and every fault of a whole file's content."""
    if too_large := size_faults(value):  # every entry of it would take minutes to examine
        return None, {}, too_large
    faults = [
        Fault(pointer(key), "unknown_key", "unknown key", did_you_mean(key, File.model_fields))
        for key in value
        if key not in File.model_fields
    ]
    said = {**_section(value, "gateway", faults), **overrides}
    unsaid = [key for key in overrides if overrides[key] is None]  # nor is what the file says
    settings = _settings({key: said[key] for key in said if key not in unsaid}, faults)
    if settings is not None:
        faults += setting_faults(settings)
    document = {
        section: _entries(section, _section(value, section, faults), faults) for section in SECTIONS
    }
    limits = _section(value, "default_limits", faults)
    try:
        read = File.model_validate({"default_limits": limits}).default_limits
        document["default_limits"] = read.model_dump(exclude_unset=True)
    except ValidationError as error:
        faults += faults_of(error, File)
    if "keys" in value and value["keys"] in ({}, None):  # whose entries are all gone
        hint = "leave `keys` out, or say `access: keys` on routes that nobody shall reach"
        faults.append(Fault("/keys", "empty", "names no key: all routes would be open", hint))
    if value.get("default_limits", {}) is None:
        faults.append(Fault("/default_limits", "empty", "names no limit", "leave the key out"))
    raw = {section: value.get(section) for section in SECTIONS}
    # Where a value is wrong in itself, what it clashes with would only confuse.
    known = {fault.pointer for fault in faults}
    clashes = [fault for fault in cross_faults(raw, settings) if fault.pointer not in known]
    return settings, normalised(document), [*faults, *clashes]


def entry(section: str, name: str, spec: Any, at: tuple[str, ...] = ()) -> dict[str, Any]:
    """The canonical form of one backend or route; Invalid names every fault, below `at`."""
    model = SECTIONS[section]
    try:
        # Validated as a mapping of one, so that the name is checked by the same rule.
        found = File.model_validate({section: {name: spec}})
    except ValidationError as error:
        prefix = pointer(section, name)
        raise Invalid(
            Fault(
                pointer(*at) + _as_said(fault.pointer.removeprefix(prefix), spec),
                fault.code,
                fault.detail,
                fault.hint,
            )
            for fault in faults_of(error, File)
        ) from None
    kept: BaseModel = getattr(found, section)[name]
    assert isinstance(kept, model)
    return kept.model_dump(by_alias=True, exclude_unset=True)


def _as_said(place: str, spec: Any) -> str:
    """`place` in what was written: a match that is a path alone has nothing below it."""
    alone = isinstance(spec, Mapping) and isinstance(spec.get("match"), str)
    return "/match" if alone and place == "/match/path" else place


def _entries(section: str, raw: Mapping[str, Any], faults: list[Fault]) -> dict[str, Any]:
    entries = {}
    for name, spec in raw.items():
        try:
            entries[name] = entry(section, name, spec, (section, name))
        except Invalid as refused:
            faults += refused.faults
    return entries


def _section(value: Mapping[str, Any], key: str, faults: list[Fault]) -> Mapping[str, Any]:
    section = value.get(key)
    if section is None:
        return {}
    if not isinstance(section, Mapping):
        faults.append(Fault(pointer(key), "type", "must be a mapping"))
        return {}
    return section


def _settings(raw: Mapping[str, Any], faults: list[Fault]) -> Settings | None:
    try:
        return Settings.model_validate(raw)
    except ValidationError as error:
        faults += faults_of(error, Settings, ("gateway",))
        return None


def _environment_values(texts: Mapping[str, str]) -> dict[str, Any]:
    """Each text as the file would hold it: numbers, truths and mappings read, lists split at
    commas."""
    fields = keys()
    values: dict[str, Any] = {}
    for key, text in texts.items():
        annotation = str(fields[key].annotation)
        if "list[" in annotation and not text.startswith("["):
            values[key] = [item.strip() for item in text.split(",") if item.strip()]
        elif annotation.startswith(("<class 'int'>", "<class 'bool'>", "<class 'float'>", "list")):
            values[key] = _read(text) if not fields[key].alias else text
        elif "Spec" in annotation:
            values[key] = _read(text)
        else:
            values[key] = text
    return values


def _read(text: str) -> Any:
    try:
        return read(text).value
    except YamlError:
        return text


def _problem(fault: Fault, source: Source, overrides: Mapping[str, str]) -> Problem:
    parts = fault.pointer.split("/")
    if parts[:2] == ["", "gateway"] and len(parts) > 2 and parts[2] in overrides:
        hint = f"set by {ENVIRONMENT_PREFIX}{parts[2].upper()}"
        return Problem(
            0, fault.pointer, fault.detail, f"{fault.hint}; {hint}" if fault.hint else hint
        )
    return Problem(source.line(fault.pointer), fault.pointer, fault.detail, fault.hint)


def _text(path: str | os.PathLike[str]) -> str:
    try:
        with open(path, "rb") as file:
            body = file.read(MAX_BYTES + 1)
        if len(body) > MAX_BYTES:
            raise ConfigurationError(
                str(path), [Problem(0, "", f"is larger than {MAX_BYTES >> 20} MiB")]
            )
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigurationError(str(path), [Problem(line, "", "is not UTF-8")]) from None
    except OSError as error:
        detail = f"cannot be read: {error.strerror or error}"
        raise ConfigurationError(str(path), [Problem(0, "", detail)]) from None
