"""Who may come in: keys, what they open, and what is kept of them."""

import hashlib
from datetime import datetime
from typing import Any

import pytest

from gateway.core import edits
from gateway.core.access import (
    Forbidden,
    Key,
    Keyring,
    check_opens,
    digest_of,
    hash_of,
    minted,
    read_key,
    secret_of,
    without_credentials,
)
from gateway.core.deltas import Delta
from gateway.core.faults import Conflict, Missing
from gateway.core.merging import merge
from gateway.core.table import Match, Route, Table, TableError
from gateway.core.units import parse_time

SECRET = minted(bytes(range(32)))
ROUTE = Route("digits", Match("/digits"), (("b", 1),))


def document(**keys: Any) -> dict[str, Any]:
    made = {
        "backends": {"b": {"instances": ["http://127.0.0.1:1"]}},
        "routes": {"digits": {"match": {"path": "/digits"}, "split": {"b": 1}}},
    }
    return {**made, "keys": keys} if keys else made


def key(*secrets: str, **more: Any) -> dict[str, Any]:
    return {"hashes": [hash_of(each) for each in secrets or (SECRET,)], **more}


def test_a_key_is_hg_and_43_characters_that_need_no_escape() -> None:
    assert SECRET.startswith("hg_")
    assert len(SECRET) == 3 + 43
    assert minted(b"\xff" * 32).isascii()
    assert hash_of(SECRET) == "sha256:" + hashlib.sha256(SECRET.encode()).hexdigest()


def test_a_key_is_found_by_its_digest_and_no_other_is() -> None:
    ring = Keyring({"acme": read_key("acme", key(SECRET, "another"))})
    assert (
        ring.find(digest_of(SECRET.encode()))
        is ring.find(digest_of(b"another"))
        is ring.keys["acme"]
    )
    for wrong in (b"", SECRET.encode()[:-1], SECRET.encode() + b" ", SECRET.lower().encode()):
        assert ring.find(digest_of(wrong)) is None


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({}, "hashes"),
        ({"hashes": []}, "from 1 to 8"),
        ({"hashes": [SECRET]}, "sha256:"),
        ({"hashes": ["sha256:" + "A" * 64]}, "lower case"),
        (key("", SECRET), "of no key at all"),
        (key(routes="digits"), "list of names"),
        (key(routes=["/digits"]), "list of names"),
        (key(expires="tomorrow"), "2027-01-01T00:00:00Z"),
        (key(expires=5), "2027-01-01T00:00:00Z"),
        (key(secret="x"), "unknown key"),
    ],
)
def test_what_is_no_key_makes_no_table(spec: dict[str, Any], says: str) -> None:
    with pytest.raises(TableError, match=says):
        Table.from_document(document(acme=spec), 1)


def test_a_key_opens_its_routes_until_it_expires() -> None:
    check_opens(Key("acme", ()), ROUTE, 0.0)
    check_opens(Key("acme", (), frozenset({"digits"}), 10.0), ROUTE, 9.9)
    with pytest.raises(Forbidden, match="expired"):
        check_opens(Key("acme", (), None, 10.0), ROUTE, 10.0)
    with pytest.raises(Forbidden, match="does not open this route"):
        check_opens(Key("acme", (), frozenset({"other"})), ROUTE, 0.0)


def test_a_bearer_token_comes_before_an_api_key_and_other_schemes_are_none() -> None:
    assert secret_of(b"", b"") == b""
    assert secret_of(b"", b"x-api-key:k\t") == b"k"
    assert secret_of(b"Authorization: bEaReR  t ", b"X-API-Key: k") == b"t"
    assert secret_of(b"Authorization: Basic eDp5", b"X-API-Key: k") == b"k"
    assert secret_of(b"", b"X-API-Key: k\r\nX-API-Key: k") != b"k"


def test_a_key_that_is_sent_twice_passes_in_neither_place() -> None:
    lines = [b"Accept: */*", b"Authorization: Bearer s3 ", b"X-API-Key: the-instances-own"]
    assert without_credentials(lines, lines[1], lines[2], True) == [lines[0], lines[2]]
    assert without_credentials(lines, lines[1], lines[2], False) == lines
    lines = [b"authorization:Bearer hg_1", b"x-api-key:hg_1", b"X-API-Key: hg_2", b"X-Other: 1"]
    known = lines[0], lines[1] + b"\r\n" + lines[2]
    assert without_credentials(lines, *known, True) == [lines[3]]
    assert without_credentials(lines[2:], *known, True) == [lines[3]]  # nominated: gone already


BASIC = b"Authorization: Basic eDp5"


@pytest.mark.parametrize(
    ("authorization", "api_key", "has_key", "passes"),
    [
        (BASIC, b"X-API-Key:\thg_1\t", True, [BASIC]),
        (BASIC, b"X-API-Key:\town", True, [BASIC]),
        (BASIC, b"X-API-Key: of: two words", True, [BASIC]),
        (b"Authorization: Bearer of: two words", b"X-API-Key: of: two words", True, []),
        (b"", b"X-API-Key:\thg_1", False, []),
        (b"Authorization: Bearer\thg_1", b"", False, []),
        (b"Authorization:", b"X-API-Key:", False, [b"Authorization:", b"X-API-Key:"]),
    ],
)
def test_a_key_passes_in_none_of_the_forms_in_which_it_is_taken(
    authorization: bytes, api_key: bytes, has_key: bool, passes: list[bytes]
) -> None:
    lines = [line for line in (authorization, api_key) if line]
    assert without_credentials(lines, authorization, api_key, has_key) == passes


@pytest.mark.parametrize(
    "text",
    ["2027-01-01T00:00:00Z", "2024-02-29T23:59:59.25+05:30", "1969-12-31T00:00-01:00",
     "2000-03-01T00:00:00Z", "2100-03-01T12:00:00Z"],
)  # fmt: skip
def test_a_time_is_seconds_since_1970(text: str) -> None:
    assert parse_time(text) == datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(
    "text",
    ["2027-02-29T00:00:00Z", "2027-13-01T00:00:00Z", "2027-01-01", "2027-01-01T24:00:00Z",
     "2027-01-01T00:00:00", "2027-01-01T00:00:00+24:00", "2027-01-01T00:00:00-05:60"],
)  # fmt: skip
def test_what_is_no_moment_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="no time"):
        parse_time(text)


def test_rotating_adds_a_hash_and_retiring_leaves_the_newest() -> None:
    rotated = edits.rotate_key(document(acme=key()), "acme", hash_of("new"))
    assert rotated["keys"]["acme"]["hashes"] == [hash_of(SECRET), hash_of("new")]
    retired = edits.retire_key(rotated, "acme")
    assert retired["keys"]["acme"]["hashes"] == [hash_of("new")]
    with pytest.raises(Missing, match="no key"):
        edits.rotate_key(document(), "acme", hash_of("new"))
    full = document(acme={"hashes": [hash_of(str(n)) for n in range(8)]})
    with pytest.raises(Conflict, match="retire the old ones first"):
        edits.rotate_key(full, "acme", hash_of("new"))


def test_the_last_key_does_not_go_while_that_would_open_a_route() -> None:
    both = document(acme=key(), beta=key("b"))
    one = edits.delete_key(both, "beta")
    with pytest.raises(Conflict, match=r"last key.*route 'digits'.*access"):
        edits.delete_key(one, "acme")
    shut = edits.put(one, "routes", "digits", {**one["routes"]["digits"], "access": "keys"})
    assert "keys" not in edits.delete_key(shut, "acme")


def test_retiring_the_only_secret_changes_nothing() -> None:
    before = document(acme=key())
    assert edits.retire_key(before, "acme") is before


def shut(spec: dict[str, Any], **routes: Any) -> dict[str, Any]:
    """`spec` with more routes, each of which has that `access`."""
    more = {name: {"match": f"/{name}", "access": access} for name, access in routes.items()}
    return {**spec, "routes": {**spec["routes"], **more}}


@pytest.mark.parametrize(
    ("now", "then", "said"),
    [
        (document(acme=key()), document(), "route 'digits' is open to everybody"),
        (shut(document(), x="keys"), shut(document(), x="open"), "route 'x' is open"),
        (document(acme=key("new")), document(acme=key("new", "old")), "'acme' has a secret"),
        (document(acme=key()), document(acme=key(), beta=key("b")), "'beta' has a secret"),
        (
            document(acme=key(routes=["digits"])), document(acme=key()),
            "key 'acme' opens more",
        ),
        (
            document(acme=key(expires="2027-01-01T00:00:00Z")),
            document(acme=key(expires="2028-01-01T00:00:00Z")), "key 'acme' opens more",
        ),
    ],
)  # fmt: skip
def test_who_is_let_in_by_going_back_is_named(
    now: dict[str, Any], then: dict[str, Any], said: str
) -> None:
    (line,) = edits.let_in(now, then)
    assert said in line


@pytest.mark.parametrize(
    ("now", "then"),
    [
        (document(), document()),
        (document(), document(acme=key())),  # nobody is kept out now
        (document(acme=key()), shut(document(acme=key()), back="open")),
        (document(acme=key(), beta=key("b")), document(acme=key())),
        (document(acme=key()), document(acme=key(routes=["digits"]))),
        (shut(document(acme=key()), x="open"), shut(document(acme=key()), x="keys")),
    ],
)
def test_going_back_to_who_may_come_in_anyway_needs_no_word(
    now: dict[str, Any], then: dict[str, Any]
) -> None:
    assert list(edits.let_in(now, then)) == []


def test_a_route_that_comes_back_without_its_key_is_open() -> None:
    without = {**document(acme=key()), "routes": {"x": {"match": "/x", "access": "open"}}}
    assert list(edits.let_in(without, document())) == ["route 'digits' is open to everybody"]


def test_a_route_that_a_key_names_does_not_go() -> None:
    with pytest.raises(Conflict, match="named by key 'acme'"):
        edits.delete_route(document(acme=key(routes=["digits"])), "digits")


def test_a_document_without_keys_is_the_same_however_it_came_about() -> None:
    before, after = document(acme=key()), document()
    delta = Delta.between(before, after)
    assert Delta.all_applied(before, [delta]) == after
    table = Table.from_document(before, 1)
    assert set(table.keys) == {"acme"}
    assert not table.edited(delta, 2, after).keys


def test_a_file_that_says_nothing_of_keys_keeps_those_of_the_api() -> None:
    live = document(acme=key())
    assert merge(document(), document(), live).document == live
    changed = document()
    changed["routes"] = {"digits": {**changed["routes"]["digits"], "access": "keys"}}
    assert merge(document(), changed, live).document["keys"] == live["keys"]


def test_a_file_that_drops_its_keys_takes_only_those() -> None:
    base, live = document(acme=key()), document(acme=key(), beta=key("b"))
    assert set(merge(base, document(), live).document["keys"]) == {"beta"}
    assert merge(base, document(), base).document == document()
