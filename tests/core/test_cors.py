"""Which origins are named, and what browsers are told."""

from typing import Any

import pytest

from gateway.core.cors import CorsPolicy, origin_fault, read_cors, without_cors

APP = "https://app.example.com"


def policy(of_route: tuple[str, ...] = (), **said: Any) -> CorsPolicy:
    return CorsPolicy(read_cors({"origins": [APP], **said}), of_route)


@pytest.mark.parametrize(
    ("origin", "says"),
    [
        ("https://app.example.com/", "without a path"),
        ("app.example.com", "scheme and host"),
        ("https://App.example.com", "lower case"),
        ("https://app.example.com:443", "usual port"),
        ("http://app.example.com:80", "usual port"),
        ("https://app.*.com", "scheme and host"),
        ("null", "scheme and host"),
        ("", "scheme and host"),
    ],
)
def test_what_no_browser_says_is_no_origin(origin: str, says: str) -> None:
    assert says in (origin_fault(origin) or "")
    with pytest.raises(ValueError, match="cors: origins"):
        read_cors({"origins": [origin]})


@pytest.mark.parametrize(
    "origin",
    ["*", APP, "http://localhost:3000", "https://*.example.com", "http://[::1]:80", "app://web"],
)
def test_what_a_browser_says_is_one(origin: str) -> None:
    assert (origin_fault(origin) is None) == (not origin.endswith("]:80"))


def test_a_wildcard_names_every_name_below_and_nothing_else() -> None:
    wild = policy(origins=["https://*.example.com"])
    assert wild.names("https://a.example.com")
    assert wild.names("https://a.b.example.com")
    for other in (
        "https://example.com",
        "http://a.example.com",
        "https://a.example.com:8443",
        "https://a.example.com.evil.org",
        "https://evil.org/.example.com",
        "https://aXexample.com",
        "https://.example.com",
        None,
    ):
        assert not wild.names(other)


def test_an_answer_names_the_origin_and_varies_by_it_whoever_asks() -> None:
    said = policy(expose=["Retry-After"], credentials=True).answer(APP)
    assert said == (
        b"Access-Control-Allow-Origin: https://app.example.com\r\n"
        b"Access-Control-Allow-Credentials: true\r\n"
        b"Access-Control-Expose-Headers: Retry-After\r\nVary: Origin\r\n"
    )
    assert policy().answer(None) == policy().answer("https://other.org") == b"Vary: Origin\r\n"
    anybody = policy(origins=["*"])
    assert anybody.answer(None) == b"Access-Control-Allow-Origin: *\r\n"


def test_a_preflight_is_told_methods_headers_and_how_long() -> None:
    said = policy(("POST",), max_age="10m").preflight(APP, "content-type").decode()
    assert "Access-Control-Allow-Methods: POST\r\n" in said
    assert "Access-Control-Allow-Headers: Authorization, Content-Type, X-API-Key\r\n" in said
    assert "Access-Control-Max-Age: 600\r\n" in said
    assert "Vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers" in said
    assert "GET, HEAD, POST, PUT, PATCH, DELETE" in policy().preflight(APP, None).decode()
    assert (
        "Allow-Methods: GET\r\n" in policy(("POST",), methods=["GET"]).preflight(APP, "").decode()
    )
    assert b"Access-Control" not in policy().preflight("https://o.org", "x").partition(b"Vary")[0]


def test_any_header_is_allowed_by_its_name_and_only_if_it_is_one() -> None:
    any_header = policy(headers=["*"])
    assert b"Allow-Headers: authorization, x-a\r\n" in any_header.preflight(
        APP, "authorization,x-a"
    )
    for wrong in ("x a", "x\x00", "a" * 3000, None):
        assert b"Allow-Headers" not in any_header.preflight(APP, wrong)


@pytest.mark.parametrize("key", ["origins", "headers", "expose"])
def test_any_and_credentials_do_not_go_together(key: str) -> None:
    with pytest.raises(ValueError, match="do not go together"):
        read_cors({"origins": [APP], key: ["*"], "credentials": True})


def test_what_the_gateway_says_instances_do_not_say_too() -> None:
    lines = [
        b"Access-Control-Allow-Origin: *",
        b"access-control-allow-credentials:true",
        b"ACCESS-CONTROL-EXPOSE-HEADERS: x",
        b"Access-Control-Max-Age: 3",
        b"Content-Type: text/plain",
    ]
    assert without_cors(lines) == lines[3:]
