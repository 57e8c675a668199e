"""How is a stream written to a connection?

Chunk by chunk as the items come, no faster than the client takes them. A stream that fails
after its head says so where its framing has a word for it, and then breaks the connection:
a truncated answer never looks complete.
"""

import orjson

from instance.core.errors import Problem
from instance.core.openai_errors import error_of
from instance.front.answers import Buffer, head
from instance.front.driver import Driver
from instance.front.incoming import Client, Incoming
from instance.front.jobs import Job, Parts
from instance.wire.links import OVERHEAD

SSE = "text/event-stream"
JSON_LINES = "application/x-ndjson"
NO_BUFFERING = b"Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n"


async def stream(incoming: Incoming, parts: Parts, driver: Driver, extra: bytes) -> None:
    """Writes the whole stream of `incoming`, from its head to its end."""
    connection, job = incoming.connection, incoming.job
    chunked = incoming.version == "1.1"
    close = not incoming.keep_alive or not chunked
    begin = head(200, parts.content_type, None, extra + NO_BUFFERING, close)
    if not chunked:
        begin = begin.replace(b"Transfer-Encoding: chunked\r\n", b"")
        connection.reset_at_end(True)
    try:
        await _write(connection, job, parts, driver, begin, chunked)
    except ConnectionResetError:
        driver.abandon(job)
        return
    if parts.problem is not None and connection.transport is not None:
        connection.break_off(reset=not chunked)
    else:
        if not chunked:
            await connection.drain()
            connection.reset_at_end(False)
        connection.finish(incoming, close)


async def _write(
    connection: Client, job: Job, parts: Parts, driver: Driver, pending: bytes, chunked: bool
) -> None:
    while items := await parts.take():
        taken = sum(map(len, items)) + OVERHEAD * len(items)
        # A chunk for each item: there are clients that take the one for the other.
        connection.write(pending + b"".join(map(chunk, items) if chunked else items))
        pending = b""
        await connection.drain()  # its server gives up who takes nothing any more
        driver.acknowledge(job, taken)
    if parts.problem is None:
        end = b"0\r\n\r\n" if chunked else b""
    else:
        end = last_words(parts, parts.problem, driver.info["spec"], job.request_id)
        end = chunk(end) if chunked else end
    connection.write(pending + end)


def last_words(parts: Parts, problem: Problem, spec: str, request_id: str) -> bytes:
    """What is said at the end of a stream that failed, whoever noticed it; empty where its framing
    has no word for it, and only the broken connection tells."""
    content_type = parts.content_type
    if content_type == SSE and spec == "openai-chat":
        return b"data: " + orjson.dumps({"error": error_of(problem)}) + b"\n\n"
    body = orjson.dumps(problem.document(request_id), default=str)
    if content_type == SSE:
        return b"event: error\ndata: " + body + b"\n\n"
    return b'{"error":' + body + b"}\n" if content_type == JSON_LINES else b""


def chunk(body: Buffer) -> bytes:
    """`body` as one chunk of the chunked framing; an empty one would end the stream."""
    return b"%x\r\n%b\r\n" % (len(body), bytes(body)) if body else b""
