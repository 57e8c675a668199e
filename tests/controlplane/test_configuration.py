"""What a file says, and what is said about a file with faults."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.controlplane.configuration import file_schema
from gateway.controlplane.configuration.checks import cross_faults
from gateway.controlplane.configuration.reading import (
    ConfigurationError,
    entry,
    examine,
    load,
    parse,
)
from gateway.controlplane.configuration.references import unreachable
from gateway.controlplane.configuration.settings import Settings, keys
from gateway.controlplane.configuration.yaml_source import YamlError, read, written
from gateway.controlplane.sharing import access
from gateway.controlplane.store.store import StoreError
from gateway.core.faults import Invalid
from gateway.core.options import DataplaneOptions
from gateway.core.table import Table

BACKENDS = "backends:\n  a: {instances: [http://127.0.0.1:8001]}\n  b: {}\n"
SERVED = "  c: {instances: [http://127.0.0.1:8003], serve: {model: 'm:M', %s}}\n"
ROUTE = "routes:\n  r:\n    match: /r\n    split: {a: 1}\n"


def problems(text: str, environment: dict[str, str] | None = None) -> list[str]:
    """`LINE POINTER DETAIL; HINT` of everything that is wrong with `text`."""
    with pytest.raises(ConfigurationError) as refused:
        parse(text, environment=environment or {})
    return [
        f"{p.line} {p.pointer} {p.detail}{f'; {p.hint}' if p.hint else ''}"
        for p in refused.value.problems
    ]


FULL = """
gateway: {listen: "0.0.0.0:8080", admin: "127.0.0.1:8081", workers: 2, store: sqlite}
backends:
  digits-linear: &common
    instances: [http://127.0.0.1:8001]
    serve: {model: examples.digits.models:Linear, devices: [cpu]}
    balance: least_loaded
    max_in_flight: 256
    queue: {size: 512, timeout: 5s}
    health: {path: /health/ready, interval: 1s, timeout: 1s, rise: 2, fall: 3}
    eject: {failures: 5, base: 5s, max: 60s}
    timeouts: {connect: 2s, response: 120s, idle: 300s}
  digits-cnn:
    <<: *common
    instances: ["dns+http://name:80"]
    serve: {model: m:N}
routes:
  digits:
    match: {path: /digits, hosts: ["*.example.com"], methods: [POST], headers: {X-A: b},
            json: {model_type: model_a, n: 1, f: 1.5, t: true, z: null}}
    rewrite: /predict
    split: {digits-linear: 90, digits-cnn: 10}
    sticky: {header: X-User-Id}
    retries: {attempts: 2, on: [connect_failure, "503"], retry_safe: false}
    on_unavailable: {fallback: digits-cnn}
    mirror: {backend: digits-cnn, percent: 1.5}
    override: true
    max_body: 64MiB
    deadline: 60s
  short: {match: /short, split: {digits-cnn: 0}, sticky: {cookie: id}, on_unavailable: fail}
"""


def test_a_file_with_everything_makes_a_table() -> None:
    text = FULL.replace("dns+http://name:80", "http://127.0.0.1:8002")
    read_settings, document = parse(text)
    table = Table.from_document(document, 1)
    route = table.routes["digits"]
    assert read_settings.workers == 2
    assert route.match.json[-1] == ("z", None)
    assert route.retries.on == ("connect_failure", "503")
    assert route.deadline_s == 60.0
    assert table.backends["digits-cnn"].queue.size == 512


def test_only_what_was_said_is_kept_with_shorthands_expanded() -> None:
    _, document = parse(BACKENDS + ROUTE)
    assert document == {
        "backends": {"a": {"instances": ["http://127.0.0.1:8001"]}, "b": {}},
        "routes": {"r": {"match": {"path": "/r"}, "split": {"a": 1}}},
    }


def test_a_file_that_says_so_is_an_empty_table_with_default_settings() -> None:
    found, document = parse("{}")
    assert document == {"backends": {}, "routes": {}}
    assert found.listen == "0.0.0.0:8080"
    assert parse("gateway:\nbackends:\nroutes:\n")[1] == document


@pytest.mark.parametrize("text", ["", "\n", "# routes: later\n", "---\n", "null", "\ufeff"])
def test_a_file_that_holds_nothing_is_refused_wherever_it_is_read(text: str) -> None:
    assert problems(text) == ["0  holds nothing; {} says that there shall be no route"]


def test_every_problem_is_named_at_once_with_its_line() -> None:
    text = """\
gateway:
  wokers: 2
  listen: 8080
backends:
  a:
    instances: [http://127.0.0.1]
    healt: {path: /x}
routes:
  digits:
    match: /digits
    split: {a: -1, aa: 10}
    retries: {on: [503]}
  empty:
    split: {}
"""
    assert problems(text) == [
        "2 /gateway/wokers unknown key; did you mean workers?",
        "3 /gateway/listen 8080 must be host:port, like 127.0.0.1:8080",
        "6 /backends/a/instances/0 'http://127.0.0.1' must name a host and a port from 1 to 65535",
        "7 /backends/a/healt unknown key; did you mean health?",
        "11 /routes/digits/split/a must be a whole number from 0 to 1,000,000",
        "11 /routes/digits/split/aa no backend 'aa'; did you mean a?",
        '12 /routes/digits/retries/on/0 must be text; write it in quotes: "503"',
        "13 /routes/empty/match is missing",
        "14 /routes/empty/split needs at least 1 entry",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("routes: [", "not YAML: did not find expected node content"),
        ("a: 1\n\tb: 2", "not YAML"),
        ("routes: {}\nroutes: {}", "2 /routes the key 'routes' stands twice, first in line 1"),
        ("- a", "1  the file must be a mapping"),
        ("route: {}", "1 /route unknown key; did you mean routes?"),
        ("gateway: {tls: {certt: a}}", "/gateway/tls/certt unknown key; did you mean cert?"),
        ("gateway:\n  etcd: {endpoint: a}", "/etcd/endpoint unknown key; did you mean endpoints?"),
        ("routes: []", "1 /routes must be a mapping"),
        ("gateway: {workers: .inf}", "/gateway/workers .inf is not a finite number"),
        ("gateway: {workers: 1e400}", "the number is too large"),
        ("gateway: !!python/object:os.system {}", "1 /gateway the tag"),
        ("a: *nobody", "not YAML: found undefined alias *nobody"),
        ("a: 1\nb: '\n\n", "(while scanning a quoted scalar that begins in line 2)"),
        ("a: {\n  b: 1\nc: 2", "(while parsing a flow mapping that begins in line 1)"),
        ("# für\nroutes: {}\nx: \0", "3  not YAML: unacceptable character #x0000"),
        ("---\n---\n", "2  a file holds one document"),
        ("x: " + "[" * 40 + "]" * 40, "nested deeper than 32 levels"),
        ("? [a]\n: b", "a key must be plain text"),
        ("gateway: {admin: 127.0.0.1:8080, listen: 0.0.0.0:8080}", "both on port 8080"),
        ("gateway: {token: short}", "must have at least 32 characters"),
        ("gateway: {token: ''}", "must have at least 32 characters"),
        ("gateway: {trusted_proxies: [10.0.0.1/8]}", "has host bits set; write it like"),
        ("gateway: {head_timeout: 10}", "10 has no unit; write it like 10s"),
        ("gateway: {lame_duck: 0.5}", "0.5 has no unit; write it like 0.5s"),
        ("gateway: {max_head: 4096}", "4096 has no unit; write it like 4096B"),
        ("gateway: {head_timeout: [10s]}", "/gateway/head_timeout must be text"),
        (BACKENDS + "  c: {queue: {timeout: 5}}", "5 has no unit; write it like 5s"),
        ("routes: {a: {match: /, split: {}, max_body: 9}}", "9 has no unit; write it like 9B"),
        ("gateway: {head_timeout: 10 seconds}", "no duration; write it like 250ms, 2s or 5m"),
        ("gateway: {max_head: 32KB}", "no size; write it like 64KiB or 64MiB"),
        ("gateway: {head_timeout: 0s}", "must be longer than 0"),
        ("gateway: {workers: 0}", "must be at least 1"),
        (
            "routes: {a: {match: {methods: [post]}, split: {}}}",
            "32; write it POST",
        ),
        (
            "gateway: {etcd: {endpoints: ['https://e:2379'], password: {env: a b}}}",
            "1 /gateway/etcd/password must be text, or {env: NAME} for what that variable says",
        ),
        (
            "gateway: {etcd: {endpoints: ['https://e:2379'], user: 7}}",
            "1 /gateway/etcd/user must be text, or {env: NAME} for what that variable says",
        ),
        ("gateway: {node: a b}", "1 /gateway/node must be up to 64 letters, digits, '.', '_'"),
        ("gateway: {access_log_percent: 0}", "must be more than 0"),
        ("gateway: {workers: '2'}", "must be a whole number; write it without quotes: 2"),
        ("gateway: {admin_hosts: a.example}", "must be a list; write it in brackets"),
        ("backends:\n\ta: {}\n", "2  not YAML: indent with spaces, not with tabs"),
        ("backends:\n  a:\n    b: 1\n\tc: 2\n", "4  not YAML: indent with spaces, not with tabs"),
        ("gateway: {store: postgres}", "must be 'sqlite', 'memory' or 'etcd'"),
        (
            "gateway: {store: etcd, etcd: {endpoints: ['https://e:2379'], key: k.pem}}",
            "/gateway/etcd a key needs `cert`, the certificate whose key it is",
        ),
        (
            "gateway: {store: etcd, etcd: {endpoints: ['http://e:2379'], ca: ca.pem}}",
            "/gateway/etcd a CA or certificate needs endpoints at https://",
        ),
        ("gateway: {expose: null}", "must be true or false; leave the key out"),
        (BACKENDS + "  a.: {}", "is no name"),
        (BACKENDS + SERVED % "devices: [gpu7]", "'gpu7' is no device; write cpu, cuda:N"),
        (BACKENDS + SERVED % "memory: 8GB", "'8GB' is no amount of memory; write auto, or like"),
        (BACKENDS + SERVED % "max_queue: 0", "must be at least 1"),
    ],
)
def test_bad_files_are_refused_in_plain_words(text: str, problem: str) -> None:
    assert problem in "\n".join(problems(text))


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("{split: {a: 1}}", "/routes/r/match is missing"),
        ("{match: r, split: {a: 1}}", "/routes/r/match 'r' is no path"),
        ("{match: /a/../b, split: {a: 1}}", "has a '.' or '..' segment"),
        ("{match: '/a?b', split: {a: 1}}", "is no path"),
        ("{match: /%zz, split: {a: 1}}", "is no path"),
        ('{match: "/a\\nb", split: {a: 1}}', "is no path"),
        ("{match: /-/x, split: {a: 1}}", "paths under /-/ are the gateway's own"),
        ("{match: {path: /a, exact: /a}, split: {a: 1}}", "only one of path and exact"),
        ("{match: {hosts: [A.com]}, split: {a: 1}}", "'A.com' is no host"),
        ("{match: {methods: [get]}, split: {a: 1}}", "/routes/r/match/methods/0"),
        ("{match: {headers: {'a b': c}}, split: {a: 1}}", "/routes/r/match/headers/a b"),
        ('{match: {headers: {a: "b\\r\\nc"}}, split: {a: 1}}', "one line of at most 4096"),
        ("{match: {json: {a: [1]}}, split: {a: 1}}", "must be text, a number, true, false or null"),
        ("{match: /r, split: {a: true}}", "/routes/r/split/a must be a whole number"),
        ("{match: /r, split: {a: 1.5}}", "/routes/r/split/a must be a whole number"),
        ("{match: /r, split: {a: 1000001}}", "from 0 to 1,000,000"),
        ("{match: /r, split: {a: 1}, sticky: {}}", "must have exactly one of header and cookie"),
        ("{match: /r, split: {a: 1}, sticky: {header: a, cookie: b}}", "exactly one of"),
        ("{match: /r, split: {a: 1}, on_unavailable: explode}", "redistribute, fail or"),
        ("{match: /r, split: {a: 1}, on_unavailable: {fallback: z}}", "no backend 'z'"),
        ("{match: /r, split: {a: 1}, mirror: {backend: z}}", "/routes/r/mirror/backend no backend"),
        ("{match: /r, split: {a: 1}, mirror: {backend: b, percent: 101}}", "at most 100"),
        ("{match: /r, split: {a: 1}, retries: {on: [sometimes]}}", 'quotes, like "503"'),
        ("{match: /r, split: {a: 1}, retries: {attempts: 0}}", "must be at least 1"),
        ("{match: /r, split: {a: 1}, max_body: 1MB}", "no size"),
        ("{match: /r, split: {a: 1}, deadline: 0s}", "must be longer than 0"),
        ("{match: /r, split: {a: 1}, rewrite: predict}", "is no path"),
        ("null", "/routes/r must be a mapping; leave the key out"),
    ],
)
def test_bad_routes_are_refused_in_plain_words(spec: str, problem: str) -> None:
    assert problem in "\n".join(problems(f"{BACKENDS}routes:\n  r: {spec}\n"))


def test_two_routes_that_ask_for_the_same_are_refused_however_they_are_written() -> None:
    text = (
        BACKENDS
        + """\
routes:
  one: {match: {path: /r, hosts: [a.com, b.com], headers: {X-A: "1"}}, split: {a: 1}}
  two: {match: {path: /r/, hosts: [b.com, a.com], headers: {x-a: "1"}}, split: {a: 1}}
  three: {match: {exact: /r, hosts: [b.com, a.com], headers: {x-a: "1"}}, split: {a: 1}}
"""
    )
    assert problems(text) == ["6 /routes/two/match asks for the same as route 'one'"]


def test_two_instances_served_on_one_port_are_refused() -> None:
    text = """\
backends:
  a: {instances: ["http://127.0.0.1:8001"], serve: {model: m:N}}
  b: {instances: ["http://localhost:8001"], serve: {model: m:N}}
  c: {instances: ["http://127.0.0.1:8001"]}
"""
    assert problems(text) == [
        "3 /backends/b/instances/0 port 8001 is already served for backend 'a'; "
        "give each instance its own port"
    ]


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254:80",
        "http://0.0.0.0:80",
        "http://[::ffff:127.0.0.1]:80",
        "http://[fe80::1%25eth0]:80",
        "http://224.0.0.1:80",
        "http://2130706433:80",
        "http://0x7f000001:80",
        "http://0177.0.0.1:80",
        "http://127.1:80",
        "http://user:secret@10.0.0.1:80",
        "http://10.0.0.1:80/path",
        "http://10.0.0.1:80/?q",
        "http://10.0.0.1:80#f",
        "http://10.0.0.1:80\\r\\nX: y",
        "http://10.0.0.1:0",
        "http://10.0.0.1:65536",
        "http://10.0.0.1",
        "https://10.0.0.1",
        "https+dns://10.0.0.1:80",
        "file:///etc/passwd",
        "unix:/run/x",
        "ftp://10.0.0.1:80",
        "http://ex\\u0430mple.com:80",
        "http://a%2eb:80",
        "http://a..b:80",
        "http://127.0.0.1:8080",
        "http://127.0.0.1:8081",
        "http://localhost:8080",
    ],
)
def test_r61_no_file_can_name_these_as_instances(url: str) -> None:
    assert len(problems(f'backends: {{a: {{instances: ["{url}"]}}}}')) == 1


def test_r61_instances_stay_inside_the_networks_that_are_allowed() -> None:
    text = (
        "gateway: {instance_networks: [10.0.0.0/8, fd00::/8]}\n"
        'backends: {a: {instances: ["http://10.1.2.3:80", "http://[fd00::1]:80", '
        '"http://192.168.0.1:80", "http://name:80"]}}'
    )
    assert problems(text) == [
        "2 /backends/a/instances/2 192.168.0.1 is outside gateway.instance_networks"
    ]


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["1e3", "0o7", "0x1f", "1_000", "1:30", "on", "~", "null", "<<", "=", ".5", "- a", "2026-01-01"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | TEXTS
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=12,
)  # fmt: skip


@given(value=VALUES)
def test_what_is_written_is_read_alike_by_yaml_1_1_and_1_2(value: object) -> None:
    text = written(value)
    source = read(text)
    assert (source.value, source.errors) == (value, [])
    assert yaml.safe_load(text) == value


def test_words_of_yaml_1_1_are_words() -> None:
    source = read("{on: [yes, no, off, 010, 1:30, 2026-01-01, ~, 0x10, 1e3, '5', !!str 5]}")
    assert source.errors == []
    assert source.value == {
        "on": ["yes", "no", "off", 10, "1:30", "2026-01-01", None, "0x10", 1000.0, "5", "5"]
    }


def test_aliases_that_would_fill_the_memory_are_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    with pytest.raises(YamlError, match="expand to too much"):
        read("\n".join(lines))


def test_an_alias_to_itself_is_refused() -> None:
    with pytest.raises(YamlError):
        read("a: &a [*a]")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc<", max_size=3), inner),
    max_leaves=10,
)  # fmt: skip


@given(JSON_VALUES)
@settings(max_examples=200, deadline=None)
def test_json_is_read_as_json(value: Any) -> None:
    source = read(json.dumps(value, ensure_ascii=False))
    assert source.errors == []
    assert json.dumps(source.value) == json.dumps(value)


@given(st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_document_or_has_problems(text: str) -> None:
    def outcome() -> Any:
        try:
            return parse(text)[1]
        except ConfigurationError as error:
            return error.problems

    assert outcome()


WORDS = [
    "gateway", "backends", "routes", "a", "b", "match", "path", "exact", "hosts", "methods",
    "headers", "json", "split", "on_unavailable", "fallback", "mirror", "backend", "sticky",
    "instances", "states", "serve", "queue", "http://127.0.0.1:8001", "dns+http://a:80",
]  # fmt: skip
VALUES = st.recursive(
    JSON_VALUES | st.sampled_from(WORDS),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=3)
    ),
    max_leaves=8,
)


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Any value, or a mapping with some of the fields."""
    return VALUES | st.fixed_dictionaries({}, optional=fields)


def named(entries: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return VALUES | st.dictionaries(st.sampled_from("ab"), entries, max_size=2)


MATCHES = some(**dict.fromkeys(["path", "exact", "hosts", "methods", "headers", "json"], VALUES))
ROUTES = some(match=MATCHES, split=VALUES, on_unavailable=VALUES, mirror=VALUES)
BACKENDS_SAID = some(instances=VALUES, states=VALUES, serve=VALUES)


@given(some(gateway=VALUES, backends=named(BACKENDS_SAID), routes=named(ROUTES)))
@example({"routes": {"a": {"match": {"hosts": True}}}})
@settings(max_examples=300, deadline=None)
def test_whatever_stands_anywhere_is_a_fault_and_no_accident(value: Any) -> None:
    if isinstance(value, dict):
        faults = examine(value)[2]
        assert all(fault.pointer.startswith("/") and fault.detail for fault in faults), faults


SAID = {
    "listen": "127.0.0.1:1", "admin": "127.0.0.1:2", "workers": "3", "store": "memory",
    "history": "5", "history_bytes": "1MiB",
    "ack_timeout": "7s", "trusted_proxies": "10.0.0.0/8,::1/128",
    "instance_networks": "10.0.0.0/8", "expose": "false", "token": "x" * 32,
    "viewer_token": "y" * 32, "admin_hosts": "a.example, b.example", "require_if_match": "true",
    "max_edit": "1MiB", "head_timeout": "1s", "body_idle": "1s", "body_min_rate": "1",
    "keep_alive": "1s", "stream_idle": "1s", "max_head": "1KiB", "max_target": "1KiB",
    "max_headers": "5", "underscore_headers": "pass", "upstream_idle": "1s",
    "upstream_max_age": "2h", "retry_percent": "5", "retry_min_per_s": "1.5",
    "mirror_in_flight": "1", "compare_body": "1KiB", "compare_memory": "1MiB",
    "gather": "1KiB", "replay": "1KiB", "buffer": "1KiB",
    "match_body": "2KiB", "match_memory": "1MiB",
    "lame_duck": "0s", "drain": "1s", "describe": "false", "access_log": "off",
    "access_log_percent": "1", "access_log_slow": "2s", "node": "n1",
    "tls": "{cert: tls.crt, key: tls.key}", "admin_tls": "{cert: tls.crt, key: tls.key}",
    "etcd": "{endpoints: [http://10.0.0.1:2379]}", "store_lost": "refuse",
}  # fmt: skip


def test_every_key_can_be_set_in_the_environment() -> None:
    assert set(SAID) == set(keys())
    usual = Settings()
    for key, text in SAID.items():
        found, _ = parse("{}", environment={f"HEADGATE_{key.upper()}": text})
        changed = {name for name in Settings.model_fields
                   if name != "node" and getattr(found, name) != getattr(usual, name)}  # fmt: skip
        field = next(n for n, each in Settings.model_fields.items() if key in (n, each.alias))
        assert changed == {field} - {"node"}, key
    assert parse("{}", environment={"HEADGATE_NODE": "n1"})[0].node == "n1"


@pytest.mark.parametrize("key", SAID)
@pytest.mark.parametrize("text", ["", "  ", "\n", " , "])
def test_a_variable_that_is_empty_is_a_fault_and_says_nothing(key: str, text: str) -> None:
    """What was to fill it in may be missing: no TLS, no token or no network is not meant by it."""
    variable = f"HEADGATE_{key.upper()}"
    says = "is empty; unset the variable, and what the file says holds"
    assert problems("{}", {variable: text}) == [f"0 /gateway/{key} {says}; set by {variable}"]


@pytest.mark.parametrize("key", ["tls", "admin_tls"])
def test_a_variable_that_says_null_takes_away_what_the_file_says(key: str) -> None:
    text = f"gateway: {{{key}: {{cert: a, key: b}}}}"
    found, _ = parse(text, environment={f"HEADGATE_{key.upper()}": "null"})
    assert getattr(found, key) is None


def test_networks_that_the_file_names_hold_beside_a_variable_that_names_none() -> None:
    text = "gateway: {instance_networks: [10.0.0.0/8]}"
    assert problems(text, {"HEADGATE_INSTANCE_NETWORKS": ","})
    found, _ = parse(text, environment={"HEADGATE_INSTANCE_NETWORKS": "[]"})
    assert found.instance_networks == [], "who means any says so"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        *((f"gateway: {{{key}: }}", "must be a mapping") for key in ("tls", "admin_tls", "etcd")),
        *((f"gateway: {{{key}: }}", "must be text") for key in ("token", "viewer_token")),
        ("default_limits:", "names no limit"),
    ],
)
def test_a_key_of_the_door_with_nothing_behind_it_does_not_open_it(text: str, says: str) -> None:
    [problem] = problems(text)
    assert says in problem
    assert "leave the key out" in problem


@pytest.mark.parametrize("said", [{"UNSET": "x"}, {"WHO": ""}, {"WHO": " "}])
def test_a_user_of_etcd_that_a_variable_does_not_say_is_told(said: dict[str, str]) -> None:
    text = "gateway: {store: etcd, etcd: {endpoints: ['http://e:2379'], user: {env: WHO}}}"
    settings, _ = parse(text)
    [fault] = unreachable(settings, said)
    assert fault.pointer == "/gateway/etcd/user"
    assert fault.detail.startswith("the variable WHO is ")
    assert settings.etcd is not None
    with pytest.raises(StoreError, match=r"gateway\.etcd\.user: the variable WHO is "):
        access(settings.etcd, said)


def test_the_environment_is_read_as_the_file_is_and_wins() -> None:
    environment = {
        "HEADGATE_WORKERS": "3",
        "HEADGATE_DRAIN": "1s",
        "HEADGATE_EXPOSE": "false",
        "HEADGATE_TRUSTED_PROXIES": "10.0.0.0/8, ::1/128",
        "HEADGATE_NODE": "123",
        "HEADGATE_RETRY_PERCENT": "5",
        "HEADGATE_TOKEN": "0" * 32,
        "HEADGATE_URL": "http://not.ours",
    }
    found, _ = parse("gateway: {workers: 1, drain: 30s}", environment=environment)
    assert (found.workers, found.drain_s, found.expose, found.node) == (3, 1.0, False, "123")
    assert found.trusted_proxies == ["10.0.0.0/8", "::1/128"]
    assert found.retry_percent == 5
    assert found.token is not None
    assert found.token.get_secret_value() == "0" * 32


def test_a_fault_of_the_environment_names_the_variable() -> None:
    assert problems("{}", {"HEADGATE_WORKERS": "many"}) == [
        "0 /gateway/workers must be a whole number; set by HEADGATE_WORKERS"
    ]


def test_r65_a_token_never_shows_in_settings_or_problems() -> None:
    secret = "a-canary-token-that-is-long-enough-1234"
    found, _ = parse(f"gateway: {{token: {secret}}}")
    assert secret not in repr(found)
    assert secret not in str(found.model_dump())
    assert secret not in found.model_dump_json()
    assert "canary" not in "\n".join(problems("gateway: {token: canary}"))


def test_the_data_plane_is_told_seconds_and_bytes() -> None:
    told = Settings.model_validate({"head_timeout": "250ms", "max_head": "1KiB"}).dataplane()
    assert told["head_timeout_s"] == 0.25
    assert told["max_head"] == 1024
    assert json.loads(json.dumps(told)) == told


def test_the_data_plane_has_the_defaults_of_the_settings_and_is_told_all_of_them() -> None:
    told = Settings().dataplane()
    bound = {"listeners", "admin_scheme"}  # what was bound is no setting
    assert {*told, *bound} == set(DataplaneOptions.__slots__)
    drawn = {"node": told["node"], "access_log": told["access_log"]}  # at each start; no one's file
    assert DataplaneOptions.from_dict(told) == DataplaneOptions(**drawn)


def test_an_unreadable_file_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        load(tmp_path / "none.yaml")
    with pytest.raises(ConfigurationError, match="cannot be read: Is a directory"):
        load(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"routes: {}\n# \xff\xfe\x00")
    with pytest.raises(ConfigurationError, match=r"binary.yaml:2: is not UTF-8"):
        load(tmp_path / "binary.yaml")


def test_the_shipped_schema_is_the_one_of_the_models() -> None:
    assert file_schema.PATH.read_text() == file_schema.rendered()


def test_the_shipped_schema_accepts_what_we_accept_and_refuses_what_it_can() -> None:
    schema = json.loads(file_schema.PATH.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(read(FULL).value, schema)
    for wrong in ("gateway: {drain: 10}", "gateway: {drian: 1s}", "routes: {r: {split: {}}}"):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(read(wrong).value, schema)


def test_r41_each_worker_is_told_its_part_of_what_is_a_number_per_gateway() -> None:
    said = {"workers": 4, "retry_min_per_s": 3, "mirror_in_flight": 10}
    told = Settings.model_validate(said).dataplane()
    assert (told["retry_min_per_s"], told["mirror_in_flight"]) == (0.75, 3)
    none = {"workers": 4, "retry_min_per_s": 0, "mirror_in_flight": 0}
    told = Settings.model_validate(none).dataplane()
    assert (told["retry_min_per_s"], told["mirror_in_flight"]) == (0, 0)


def test_what_an_instance_takes_may_stand_in_the_file() -> None:
    said = "devices: [cpu, mps, auto, cuda, cuda:1], memory: 8GiB, batch_timeout: 0ms, max_queue: 1"
    _, document = parse(BACKENDS + SERVED % said)
    assert document["backends"]["c"]["serve"]["batch_timeout"] == "0ms"


@pytest.mark.parametrize(
    ("serve", "fault"),
    [
        ({"env": {"A": "1", "B": {"env": "MINE"}}, "args": {"n": 1}, "replicas": 2}, ""),
        ({"env": {"A": 1}}, "/env/A: must be text in quotes, or {env: NAME}"),
        ({"env": {"1A": "x"}}, "'1A' is no name of a variable"),
        ({"env": {"A": {"env": "HEADGATE_TOKEN"}}}, "HEADGATE_TOKEN is the gateway's own"),
        ({"replicas": 0}, ""),
        ({"replicas": -1}, "/replicas: "),
        ({"replicas": 0, "scale": {"max": 2}}, "no number to scale from: leave `scale` out"),
        ({"replicas": 0, "start": "demand"}, "is unloaded by `idle`, not by 0"),
        ({"scale": {"min": 2, "max": 4, "wait": "50ms"}}, ""),
        ({"scale": {"min": 5, "max": 4}}, "max must be 5 or more, as min is"),
        ({"threads": "all"}, "/threads: "),
        ({"devices": ["auto"], "memory": "auto", "start": "demand", "idle": "10m"}, ""),
        ({"memory": "8 GiB"}, "/memory: '8 GiB' is no amount of memory; write auto, or like 8GiB"),
        ({"start": "later"}, "/start: "),
        ({"idle": "10m"}, "idle needs `start: demand`: nothing else starts it again"),
        ({"start": "demand", "idle": "10"}, "/idle: '10' is no duration"),
    ],
)
def test_what_serve_gives_a_process_is_checked(serve: dict[str, Any], fault: str) -> None:
    spec = {"serve": {"model": "m:M", **serve}}
    if not fault:
        assert entry("backends", "m", spec) == spec
        return
    with pytest.raises(Invalid) as refused:
        entry("backends", "m", spec)
    assert fault in str(refused.value)


def test_none_of_what_has_an_address_that_is_written_cannot_be_asked_for() -> None:
    serve = {"model": "m:M", "replicas": 0}
    (fault,) = faults_of({"serve": serve, "instances": ["http://127.0.0.1:1"]})
    assert "leave `instances` out" in str(fault)
    assert faults_of({"serve": serve, "instances": ["fleet://m"]}) == []


@pytest.mark.parametrize(
    ("instances", "fault"),
    [
        (["fleet://m"], ""),
        (["fleet://n"], "write fleet://m, and no other instance"),
        (["fleet://m", "http://127.0.0.1:1"], "write fleet://m, and no other instance"),
        (["fleet://"], "must be fleet:// and a name"),
    ],
)
def test_a_fleet_has_what_is_served_by_the_name_of_its_backend(
    instances: list[str], fault: str
) -> None:
    spec = {"serve": {"model": "m:M"}, "instances": instances}
    said = "\n".join(map(str, faults_of(spec)))
    assert fault in said if fault else not said


def faults_of(spec: dict[str, Any]) -> list[Any]:
    """What is wrong with backend m, as it is written."""
    try:
        return list(cross_faults({"backends": {"m": entry("backends", "m", spec)}, "routes": {}}))
    except Invalid as refused:
        return list(refused.faults)


@pytest.mark.parametrize(
    ("route", "fault"),
    [
        ({"cors": {"origins": ["https://a.example.com"], "max_age": "10m"}}, ""),
        ({"cors": {"origins": ["*"], "credentials": False}}, ""),
        ({"cors": {"origins": ["*"], "credentials": True}}, "/cors: `*` and `credentials: true`"),
        ({"cors": {"origins": ["https://a.example.com/"]}}, "/cors/origins/0: 'https://a.example"),
        ({"cors": {"origins": []}}, "/cors/origins"),
        ({"cors": {}}, "/cors/origins"),
        ({"headers": {"request": {"set": {"X-A": "1"}, "remove": ["Cookie"]}}}, ""),
        ({"headers": {"response": {"set": {"Content-Length": "1"}}}}, "Content-Length frames the"),
        ({"headers": {"request": {"remove": ["connection"]}}}, "/remove/0: connection belongs to"),
        ({"headers": {"request": {"add": {"X-Headgate-Consumer": "a"}}}}, "the gateway's own"),
        ({"headers": {"request": {"set": {"A": "1"}, "remove": ["a"]}}}, "a stands there twice"),
        ({"compress": True}, ""),
        ({"compress": False}, ""),
        ({"compress": {"min": "1KiB", "events": True}}, ""),
        ({"compress": {"min": 1024}}, "/compress/min: 1024 has no unit"),
        ({"compress": {"least": "1KiB"}}, "/compress/least: unknown key"),
        ({"compress": "gzip"}, "/compress: must be true, false or a mapping"),
        ({"limits": {"requests": 100}}, "/limits/requests: 100 is no rate; write it like 100/s"),
    ],
)
def test_what_a_route_does_to_headers_and_answers_is_checked(
    route: dict[str, Any], fault: str
) -> None:
    spec = {"match": "/", "split": {"a": 1}, **route}
    if not fault:
        said = entry("routes", "r", spec)
        assert said["compress"] == {} if route == {"compress": True} else spec.keys() == said.keys()
        document = {"backends": {"a": {"instances": []}}, "routes": {"r": said}}
        assert Table.from_document(document, 1).routes["r"]
        return
    with pytest.raises(Invalid) as refused:
        entry("routes", "r", spec)
    assert fault in str(refused.value)
    assert len(refused.value.faults) == 1, refused.value
