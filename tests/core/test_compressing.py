"""What is compressed, and as what."""

import pytest

from gateway.core.compressing import (
    NOT,
    PLAIN,
    STREAM,
    Compress,
    chosen,
    coded_lines,
    kind_of,
    read_compress,
)

BOTH = ("zstd", "gzip")


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        (None, None),
        ("", None),
        ("gzip", "gzip"),
        ("GZIP", "gzip"),
        ("x-gzip", "gzip"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("zstd;q=0.5, gzip;q=0.8", "gzip"),
        ("zstd;q=0.8, gzip;q=0.8", "zstd"),
        ("zstd;q=0, gzip", "gzip"),
        ("gzip;q=0", None),
        ("gzip; q=0.000", None),
        ("gzip ; q = 1.000", "gzip"),
        ("*", "zstd"),
        ("*;q=0", None),
        ("*;q=0.3, zstd;q=0", "gzip"),
        ("identity", None),
        ("identity;q=1, gzip;q=0.5", None),
        ("identity;q=0.5, gzip;q=0.5", "gzip"),
        ("gzip;q=nonsense", None),
        ("gzip;q=2", None),
        ("br", None),
        (",, ;q=1,", None),
    ],
)
def test_a_client_gets_what_it_likes_best_of_what_there_is(
    accept: str | None, coding: str | None
) -> None:
    assert chosen(accept, BOTH) == coding


def test_without_a_library_for_zstd_gzip_is_all_there_is() -> None:
    assert chosen("zstd, gzip;q=0.1", ("gzip",)) == "gzip"
    assert chosen("zstd", ("gzip",)) is None


@pytest.mark.parametrize(
    ("lines", "kind"),
    [
        ([b"Content-Type: application/json"], PLAIN),
        ([b"content-type:Application/Problem+JSON; charset=utf-8"], PLAIN),
        ([b"Content-Type: text/html"], PLAIN),
        ([b"Content-Type: image/svg+xml"], PLAIN),
        ([b"Content-Type: application/x-ndjson"], PLAIN),
        ([b"Content-Type: text/event-stream; x=y"], STREAM),
        ([b"Content-Type: image/png"], NOT),
        ([b"Content-Type: application/octet-stream"], NOT),
        ([], NOT),
        ([b"Content-Type: text/plain", b"Content-Encoding: br"], NOT),
        ([b"Cache-Control: public, No-Transform", b"Content-Type: text/plain"], NOT),
        ([b"Cache-Control: no-transformer", b"Content-Type: text/plain"], PLAIN),
        ([b"Content-Range: bytes 0-1/2", b"Content-Type: text/plain"], NOT),
        ([b"Content-Type: text/plain", b"repr-digest: sha-256=:AAAA:"], NOT),
    ],
)
def test_json_and_text_that_is_plain_can_be_compressed(lines: list[bytes], kind: int) -> None:
    assert kind_of(lines) == kind


def test_other_bytes_have_a_weak_tag_and_no_parts() -> None:
    lines = [b'ETag: "a"', b"Accept-Ranges: bytes", b"X: y", b'etag: W/"b"']
    assert coded_lines(lines, "gzip") == [
        b'ETag: W/"a"',
        b"X: y",
        b'etag: W/"b"',
        b"Content-Encoding: gzip",
    ]


def test_how_it_is_written() -> None:
    assert read_compress(True) == read_compress({}) == Compress(1024, False)
    assert read_compress(False) is None
    assert read_compress({"min": "2KiB", "events": True}) == Compress(2048, True)
    for wrong in (1, None, {"min": 5}, {"max": "1KiB"}, {"events": 1}):
        with pytest.raises((TypeError, ValueError)):
            read_compress(wrong)
