"""Hosts in their one form, and targets that are kept byte for byte or refused."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core import targets
from gateway.core.targets import host_form, normalise_host, read_target_fault, target_fault

CORPORA = Path(
    os.environ.get("HEADGATE_CORPORA", Path(__file__).parents[2].parent / "shared" / "corpora")
)


@pytest.mark.parametrize(
    ("raw", "host"),
    [
        ("Example.COM", "example.com"), ("example.com:8080", "example.com"),
        ("example.com.", "example.com"), ("example.com.:80", "example.com"),
        ("example.com:", "example.com"), ("localhost", "localhost"), ("127.0.0.1:1", "127.0.0.1"),
        ("[::1]:8080", "[::1]"), ("[FE80::1]", "[fe80::1]"), ("a_b.c", "a_b.c"),
    ],
)  # fmt: skip
def test_r6_hosts_have_one_form(raw: str, host: str) -> None:
    assert normalise_host(raw) == host


@pytest.mark.parametrize(
    "raw",
    ["", ".", "..", "a..b", "a b", "a@b", "a/b", "a\\b", "a:99999", "a:b", "a:1:2", "[::1", "[]",
     "[::1]x", "[x]", "[fe80::1%25eth0]", ":80", "a,b", "ä.de", "a\x00", "a:-1", "a:８０", ".a",
     "[::1].", "*.a"],
)  # fmt: skip
def test_r6_what_is_no_host_is_refused(raw: str) -> None:
    with pytest.raises(ValueError):
        normalise_host(raw)


def test_a_host_is_known_by_what_was_written_and_a_flood_of_others_is_bounded() -> None:
    for _ in range(2):
        assert host_form(b"Model.Example.:80") == "model.example"
        with pytest.raises(ValueError):
            host_form(b"no host")
    for number in range(40_000):
        host_form(b"h%d.example" % number)
    assert len(targets.HOST_FORMS.keys()) <= 16_384
    assert host_form(b"Model.Example.:80") == "model.example"


def rows(name: str) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in (CORPORA / name).read_text().splitlines()]
    except FileNotFoundError:
        return []


@pytest.mark.skipif(not rows("nginx_host.jsonl"), reason=f"no corpora at {CORPORA}")
def test_r6_the_host_corpus_is_read_as_it_says() -> None:
    for row in rows("nginx_host.jsonl"):
        line, _, header = row["raw"].partition("\r\n")
        target = line.split(" ")[1]
        if target.startswith("http://"):
            host = target.removeprefix("http://").partition("/")[0]
        else:
            host = header.partition(":")[2].strip()
        try:
            assert normalise_host(host) == row["normalised_host"], row["id"]
        except ValueError:
            # "http://\e/x" names the authority "\e" and "[ab/]" ends at its slash: refused too.
            assert row["verdict"] == "reject", row["id"]


@pytest.mark.skipif(not rows("request_targets.jsonl"), reason=f"no corpora at {CORPORA}")
def test_r7_the_target_corpus_is_kept_or_refused() -> None:
    for row in rows("request_targets.jsonl"):
        fault = target_fault(row["target"])
        if row["cls"] in ("keep", "case", "slashes", "badpct", "overlong", "ctl"):
            assert fault is None, row
        elif row["target"] == "/a%2e%2e/b":
            assert fault is None, "a segment named a.. is no dot segment"
        elif row["cls"] in ("dot", "dotsemi"):
            assert fault == "dots", row
        elif row["cls"] in ("nul", "frag", "malformed", "absolute", "absolute_other", "asterisk",
                            "authority"):  # fmt: skip
            assert fault is not None, row


@pytest.mark.parametrize(
    "target",
    ["/", "/a.b", "/.well-known/x", "/a/...", "/..a", "/a..", "/a?b=../c", "/%2e%2ea", "/a%2Eb",
     "/v1.0/x.json", "/a;v=1/b", "/é"],
)  # fmt: skip
def test_r7_dots_in_names_are_no_dot_segments(target: str) -> None:
    assert target_fault(target) is None


@pytest.mark.parametrize(
    "target",
    ["/..", "/.", "/a/../b", "/a/.", "/%2e", "/%2E%2e/x", "/.%2e/", "/a/..%2fb", "/a%2f..%2fb",
     "/a\\..\\b", "/a/..;/b", "/a/..?x", "/a/%2e%2E", "/a%5c..%5c", "/..%3bx/"],
)  # fmt: skip
def test_r7_dot_segments_are_refused_however_written(target: str) -> None:
    assert target_fault(target) == "dots"


BEGINS = re.compile(r"/|\\|%2f|%5c", re.IGNORECASE)
DOTS = re.compile(r"(\.|%2e){1,2}($|[/?;\\]|%2f|%5c|%3b)", re.IGNORECASE)


@given(st.text(alphabet="/.%2eEfF5cC30;\\?#a é\x00\x1f\x7f\x85\xad", max_size=12))
def test_r7_what_few_targets_hold_is_found_wherever_it_stands(rest: str) -> None:
    target = f"/{rest}"
    path = target.partition("?")[0]
    if "%00" in target or any(letter <= " " or letter == "\x7f" for letter in target):
        expected: str | None = "control"
    elif "#" in target:
        expected = "fragment"
    else:
        segments = (path[begin.end() :] for begin in BEGINS.finditer(path))
        expected = "dots" if any(map(DOTS.match, segments)) else None
    assert target_fault(target) == expected


@given(st.text(alphabet="/.%2eEfF5cC30;?ab=-", max_size=12), st.booleans())
def test_r7_what_was_read_from_a_request_line_is_judged_alike(rest: str, is_path: bool) -> None:
    target = f"/{rest}" if is_path else rest
    assert read_target_fault(target) == target_fault(target)
