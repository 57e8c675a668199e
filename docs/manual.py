"""What do the manual's pages about the file and the admin API say?

Rendered from the models, the operations and their examples, so that the pages cannot say
anything else than the code does. `python -m docs.manual` writes
`docs/configuration.md`, `docs/admin-api.md`, `docs/health.md` and `docs/rollout-states.md`; a test
compares.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docs.configuration_examples import example_of
from docs.errors_page import errors_page
from docs.health_page import health_page
from docs.rollout_states import rollout_states_page
from gateway.controlplane.admin.openapi_operations import EXAMPLES
from gateway.controlplane.admin.operations import OPERATIONS, Operation
from gateway.controlplane.admin.problems import KINDS
from gateway.controlplane.configuration import settings
from gateway.controlplane.configuration.checks import MAX_BACKENDS, MAX_INSTANCES, MAX_ROUTES
from gateway.controlplane.configuration.file_schema import file_schema

DOCS = Path(__file__).parent
_RENDERED = "<!-- Rendered by `python -m docs.manual`; a test compares. -->"

Schema = dict[str, Any]

_PLACES = {
    "{route}": "digits",
    "{backend}": "digits-cnn",
    "{address}": "127.0.0.1:8002",
    "{name}": "acme",
    "{revision}": "42",
    "{word:pause|resume|promote|approve|abort}": "pause",
    "{verb:drain|resume|disable|enable}": "drain",
}

_API_HEAD = f"""# The admin API

{_RENDERED}

The admin listener (`gateway.admin`, by default `127.0.0.1:8081`) speaks JSON. The same
description is served for programs at `/openapi.json` and for people at `/docs`.

**Every write** is durable, then visible on every worker, then answered: after the answer no new
request is decided by the old table. It is a new revision with who, when, why and the difference
in the history, and it never resets health, in-flight counts or connections of an instance that
stays.

An edit that replaces every instance of a backend by others is put in force once one of those is
ready, so that no request finds nobody; if none of them is after two probes each, or two seconds,
it is put in force all the same.

- `?dry_run=true` shows the difference and changes nothing.
- `X-Change-Reason: one line` is kept in the history.
- `ETag` comes with every resource; with `If-Match` a write is refused with 412, and the current
  state in `current`, when the resource has changed since. `gateway.require_if_match` makes the
  condition compulsory (428). `If-None-Match: *` makes a new resource only; with an `ETag` a read
  is answered 304 while nothing has changed.
- Errors are problem+json (RFC 9457); `errors` names every fault at once as
  `{{pointer, code, detail}}`, each by its place in the body that was sent.
- A write reads JSON (`apply` also YAML) and refuses queries that it does not know. One that takes
  no body takes an empty one.
- Events carry an `id`: a stream that is opened with `Last-Event-ID` begins with those that were
  missed, also those of the control process before, or with `lost` where they are no longer kept.
- `Authorization: Bearer TOKEN` is needed when a token is configured, and always when the listener
  is not on a loopback address. A viewer's token (`gateway.viewer_token`) may read everything and
  change nothing. Twenty wrong tokens a minute shut an address, or an IPv6 network of /64, out for
  a while (429). The status says the `role` of the token that asks.

## Operations
"""

_FILE_HEAD = f"""# The configuration file

{_RENDERED}

YAML, as YAML 1.2 reads it: `on` and `off` are words. Unknown keys are errors, and
`headgate check FILE` names every problem with its line, and warns of what the file names and this
machine has not: certificates, models, variables (a start would refuse it, or fail). Durations are
written `250ms`, `2s`, `5m`, `1h`; sizes `64KiB`, `64MiB`. Files are looked for from the working
directory, models beside the file first; a `~` at the start is the home of who runs it. `headgate
schema` prints the JSON Schema: with `# yaml-language-server: $schema=PATH` as the file's first
line editors complete it.
A table has at most {MAX_ROUTES:,} routes, {MAX_BACKENDS:,} backends and {MAX_INSTANCES:,}
instances: what is larger is refused with its size, whatever way it comes.

## `gateway`

How the gateway itself is set up; read at start. Each key can also be set in the environment, as
`HEADGATE_` and the key in capitals (lists with commas, `null` or `[]` for none); the environment
wins, and a variable that is empty is an error.
{example_of("gateway")}

| key | default | what it does |
|---|---|---|
"""

SECTIONS = (
    ("routes", "RouteSpec", "`routes: {NAME: …}`"),
    ("match", "MatchSpec", "`match` of a route"),
    ("sticky", "StickySpec", "`sticky` of a route"),
    ("retries", "RetriesSpec", "`retries` of a route"),
    ("mirror", "MirrorSpec", "`mirror` of a route"),
    ("compare", "CompareSpec", "`compare` of a mirror"),
    ("cors", "CorsSpec", "`cors` of a route"),
    ("headers", "HeaderRulesSpec", "`headers` of a route"),
    ("rules", "RulesSpec", "`request` and `response` of its `headers`"),
    ("compress", "CompressSpec", "`compress` of a route"),
    ("keys", "KeySpec", "`keys: {NAME: …}`"),
    ("limits", "LimitsSpec", "`limits` of a key or a route, and `default_limits`"),
    ("backends", "BackendSpec", "`backends: {NAME: …}`"),
    ("serve", "ServeSpec", "`serve` of a backend"),
    ("scale", "ScaleSpec", "`scale` of a `serve`"),
    ("queue", "QueueSpec", "`queue` of a backend"),
    ("health", "HealthSpec", "`health` of a backend"),
    ("eject", "EjectSpec", "`eject` of a backend"),
    ("timeouts", "TimeoutsSpec", "`timeouts` of a backend"),
    ("tls", "InstanceTlsSpec", "`tls` of a backend"),
)


def configuration_page() -> str:
    """`docs/configuration.md`, whole."""
    return _FILE_HEAD + "\n".join([*_setting_rows(), *_section_tables()]) + "\n"


def _setting_rows() -> Iterator[str]:
    for key, field in settings.keys().items():
        default = "" if field.default_factory else _shown(field.default)
        yield f"| `{key}` | {default} | {field.description} |"


def _shown(default: Any) -> str:
    return "" if default is None else f"`{json.dumps(default).strip(chr(34))}`"


def _section_tables() -> Iterator[str]:
    schema = file_schema()
    models = {name: _find(schema, name) for _, name, _ in SECTIONS}
    for part, name, title in SECTIONS:
        model = models[name]
        yield f"\n## {title}\n\n{model['description']}"
        if example := example_of(part):
            yield example
        yield "\n| key | what it is |\n|---|---|"
        needed = model.get("required", [])
        for key, value in model["properties"].items():
            must = " **Needed.**" if key in needed else ""
            said = value.get("description") or _find_described(schema, value)
            yield f"| `{key}` | {said.replace('|', chr(92) + '|')}{must} |"


def _find(schema: Schema, name: str) -> Schema:
    found: Schema = schema["$defs"][name]
    return found


def _find_described(schema: Schema, value: Schema) -> str:
    name = str(value.get("$ref", "")).rpartition("/")[2]
    return str(schema["$defs"].get(name, {}).get("description", ""))


def api_page() -> str:
    """`docs/admin-api.md`, whole."""
    lines = [_API_HEAD]
    for operation in OPERATIONS:
        lines.append(_operation(operation))
    lines.append("## Problems\n\n| code | status | title |\n|---|---|---|")
    lines += [f"| `{kind.code}` | {kind.status} | {kind.title} |" for kind in KINDS.values()]
    return "\n".join(lines) + "\n"


def _operation(operation: Operation) -> str:
    path = re.sub(r"\{(\w+):[^}]*\}", r"{\1}", operation.path)
    access = {
        "public": "Everybody.",
        "viewer": "Viewers and operators.",
        "operator": "Operators.",
    }[operation.access]
    return (
        f"### `{operation.method} {path}`\n\n{operation.summary}. {access}\n\n"
        f"```sh\n{_curl(operation)}\n```\n"
    )


def _curl(operation: Operation) -> str:
    path = operation.path
    for place, value in _PLACES.items():
        path = path.replace(place, value)
    method = "" if operation.method == "GET" else f" -X {operation.method}"
    stream = " --no-buffer" if operation.answer == "EventStream" else ""
    lines = [f"curl{stream}{method} http://127.0.0.1:8081{path}"]
    if operation.access != "public":
        lines.append('-H "Authorization: Bearer $HEADGATE_TOKEN"')
    if operation.body == "File":
        lines += ["-H 'Content-Type: application/yaml'", "--data-binary @headgate.yaml"]
    elif operation.body:
        lines.append("-H 'Content-Type: application/json'")
        lines.append(f"-d '{json.dumps(EXAMPLES[operation.name])}'")
    return " \\\n  ".join(lines)


PAGES = {
    "configuration.md": configuration_page,
    "admin-api.md": api_page,
    "errors.md": errors_page,
    "health.md": health_page,
    "rollout-states.md": rollout_states_page,
}


if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).write_text(page())
