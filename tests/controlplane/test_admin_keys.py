"""Keys by the admin API: shown once, kept as hashes, and edited like anything else."""

import hashlib
import json
from typing import Any

import pytest

from gateway.controlplane.admin.security import Tokens
from gateway.core.access import hash_of
from tests.controlplane.conftest import FILE, OPERATOR, VIEWER, Admin, MakeAdmin

KEYS = "/admin/v1/keys"


async def made(admin: Admin, name: str = "acme", **more: Any) -> str:
    status, answer, _ = await admin.ask("POST", KEYS, {"name": name, **more})
    assert status == 201
    return str(answer["key"])


async def test_a_key_is_made_and_answered_as_the_contract_says(admin: Admin) -> None:
    status, answer, headers = await admin.ask(
        "POST", KEYS, {"name": "acme", "routes": ["digits"], "expires": "2037-01-01T00:00:00Z"}
    )
    assert status == 201
    assert list(answer) == ["name", "key", "revision", "applied"]
    assert (answer["name"], answer["revision"], answer["applied"]) == ("acme", 2, {"workers": 1})
    assert headers["Location"] == f"{KEYS}/acme"
    assert headers["Cache-Control"] == "no-store"
    secret = answer["key"]
    assert len(secret) == 46
    digest = hashlib.sha256(secret.encode()).digest()
    assert admin.table.keys["acme"].digests == (digest,)


async def test_no_answer_but_the_first_holds_the_secret_and_none_the_history(admin: Admin) -> None:
    secrets = [await made(admin), await made(admin, "beta")]
    status, answer, _ = await admin.ask("POST", f"{KEYS}/acme/rotate", {})
    assert (status, list(answer)) == (200, ["name", "key", "revision", "applied"])
    secrets.append(answer["key"])
    assert len(set(secrets)) == 3
    told = [
        (await admin.ask("GET", path))[1]
        for path in (KEYS, f"{KEYS}/acme", "/admin/v1/table", "/admin/v1/history",
                     "/admin/v1/history/2", "/admin/v1/history/4")
    ]  # fmt: skip
    assert not [each for each in secrets if each in json.dumps(told)]
    assert told[0] == {
        "revision": 4,
        "keys": {
            "acme": {"hashes": [hash_of(secrets[0]), hash_of(secrets[2])]},
            "beta": {"hashes": [hash_of(secrets[1])]},
        },
    }
    assert told[1] == told[0]["keys"]["acme"]


async def test_both_secrets_are_valid_until_the_old_one_is_retired(admin: Admin) -> None:
    old = await made(admin)
    new = (await admin.ask("POST", f"{KEYS}/acme/rotate", {}))[1]["key"]
    hashes = [hash_of(old), hash_of(new)]
    assert (await admin.ask("GET", f"{KEYS}/acme"))[1]["hashes"] == hashes
    status, answer, _ = await admin.ask("POST", f"{KEYS}/acme/retire", {})
    assert (status, answer["name"]) == (200, "acme")
    assert answer["current"] == {"hashes": [hash_of(new)]}


async def test_retiring_where_there_is_nothing_to_retire_makes_no_revision(admin: Admin) -> None:
    secret = await made(admin)
    for query in ("", "?dry_run=true"):
        status, answer, _ = await admin.ask("POST", f"{KEYS}/acme/retire{query}", {})
        assert (status, answer["revision"], answer["diff"]) == (200, 2, [])
        assert answer["current"] == {"hashes": [hash_of(secret)]}
    assert admin.table.revision == 2
    status, _, _ = await admin.ask(
        "POST", f"{KEYS}/acme/retire", {}, headers={"If-Match": '"another"'}
    )
    assert status == 412


async def test_going_back_before_the_last_key_says_what_it_opens(admin: Admin) -> None:
    await made(admin)
    back = "/admin/v1/history/1/restore"
    for query in ("?dry_run=true", ""):
        status, answer, _ = await admin.ask("POST", f"{back}{query}", {})
        assert status == 200
        assert "route 'digits' is open to everybody" in answer["opened"]
    assert admin.table.revision == 3
    assert not admin.table.keys
    status, answer, _ = await admin.ask("POST", "/admin/v1/history/2/restore", {})
    assert (status, "opened" in answer) == (200, False)


async def test_a_file_from_which_the_last_key_is_gone_says_which_routes_it_opens(
    admin: Admin,
) -> None:
    headers = {"Content-Type": "application/yaml"}
    apply = "/admin/v1/apply"
    keys = f"{FILE}\nkeys:\n  acme: {{hashes: ['{hash_of('a')}']}}\n"
    status, answer, _ = await admin.ask("POST", apply, data=keys, headers=headers)
    assert (status, "opened" in answer) == (200, False)
    for query in ("?dry_run=true", ""):
        status, answer, _ = await admin.ask("POST", apply + query, data=FILE, headers=headers)
        assert status == 200
        assert "route 'digits' is open to everybody" in answer["opened"]
    status, answer, _ = await admin.ask("POST", apply, data=FILE, headers=headers)
    assert (status, "opened" in answer) == (200, False), "it is open already"


async def test_a_key_is_changed_and_revoked_like_any_entry(admin: Admin) -> None:
    await made(admin)
    await made(admin, "beta")
    status, answer, _ = await admin.ask("PATCH", f"{KEYS}/acme", {"routes": ["digits"]})
    assert (status, answer["name"], answer["current"]["routes"]) == (200, "acme", ["digits"])
    status, problem, _ = await admin.ask("PATCH", f"{KEYS}/acme", {"routes": ["digit"]})
    assert (status, problem["errors"][0]["pointer"]) == (400, "/routes/0")
    assert "did you mean digits?" in problem["errors"][0]["detail"]
    nothing = {"hashes": [hash_of("")]}
    status, problem, _ = await admin.ask("PATCH", f"{KEYS}/acme", nothing)
    assert (status, problem["errors"][0]["pointer"]) == (400, "/hashes/0")
    assert "would let everybody in" in problem["errors"][0]["detail"]
    status, answer, _ = await admin.ask("DELETE", f"{KEYS}/acme")
    assert (status, answer["current"]) == (200, None)
    status, problem, _ = await admin.ask("DELETE", f"{KEYS}/beta")
    assert status == 409
    assert "last key" in problem["detail"]
    assert set(admin.table.keys) == {"beta"}
    status, _, _ = await admin.ask("GET", f"{KEYS}/acme")
    assert status == 404


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({}, ["/name"]),
        ({"name": 5}, ["/name"]),
        ({"name": "no/name"}, ["/name"]),
        ({"name": "a", "routes": ["x"], "expires": "soon"}, ["/expires", "/routes/0"]),
        ({"name": "a", "hashes": [], "secret": "x"}, ["/hashes", "/secret"]),
    ],
)
async def test_every_fault_of_a_new_key_is_named_and_nothing_is_made(
    admin: Admin, body: dict[str, Any], pointers: list[str]
) -> None:
    status, problem, _ = await admin.ask("POST", KEYS, body)
    assert status == 400
    assert sorted(each["pointer"] for each in problem["errors"]) == pointers
    assert "hg_" not in json.dumps(problem)
    assert admin.table.revision == 1


async def test_a_name_is_taken_once_and_a_dry_run_makes_no_secret(admin: Admin) -> None:
    status, answer, _ = await admin.ask("POST", f"{KEYS}?dry_run=true", {"name": "acme"})
    assert (status, answer["dry_run"], "key" in answer) == (200, True, False)
    assert not admin.table.keys
    await made(admin)
    status, problem, _ = await admin.ask("POST", KEYS, {"name": "acme"})
    assert (status, "rotate" in problem["detail"]) == (409, True)


async def test_a_viewer_reads_keys_and_makes_none(make_admin: MakeAdmin) -> None:
    admin = await make_admin(tokens=Tokens.of(OPERATOR, VIEWER))
    viewer = {"Authorization": f"Bearer {VIEWER}"}
    assert (await admin.ask("GET", KEYS, headers=viewer))[0] == 200
    assert (await admin.ask("POST", KEYS, {"name": "a"}, headers=viewer))[0] == 403


async def test_a_file_brings_keys_and_keeps_those_of_the_api(admin: Admin) -> None:
    await made(admin)
    file = f"{FILE}\nkeys:\n  beta: {{hashes: ['{hash_of('b')}'], expires: 2037-01-01T00:00:00Z}}\n"
    headers = {"Content-Type": "application/yaml"}
    status, answer, _ = await admin.ask("POST", "/admin/v1/apply", data=file, headers=headers)
    assert (status, answer["overridden"]) == (200, [])
    assert set(admin.table.keys) == {"acme", "beta"}
    same = file + f"  gamma: {{hashes: ['{hash_of('b')}']}}\n"
    status, problem, _ = await admin.ask("POST", "/admin/v1/apply", data=same, headers=headers)
    assert status == 400
    assert problem["errors"][0]["pointer"] == "/keys/gamma/hashes/0"


@pytest.mark.parametrize("keys", ["keys: {}", "keys:", "keys:\n  # acme: {hashes: []}"])
async def test_a_file_whose_keys_are_all_gone_opens_nothing_by_that(
    admin: Admin, keys: str
) -> None:
    await made(admin)
    headers = {"Content-Type": "application/yaml"}
    status, problem, _ = await admin.ask(
        "POST", "/admin/v1/apply", data=f"{FILE}\n{keys}\n", headers=headers
    )
    assert (status, problem["errors"][0]["pointer"]) == (400, "/keys")
    assert set(admin.table.keys) == {"acme"}
