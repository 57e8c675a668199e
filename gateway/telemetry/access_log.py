"""What is written down about each request, and when is it written?

One JSON object per line. A request leaves an `Entry`; lines are made and written together,
shortly after, so that no request waits for a disk and none is formatted on its own. The
query, headers and bodies are never logged: they may hold secrets. Which requests are left
out is `gateway.core.sampling`; they are counted all the same, elsewhere.
"""

import time
from collections.abc import Iterable
from datetime import UTC, datetime

import orjson

from gateway.core.sampling import EVERY, HEALTH, Sampling
from gateway.processes.outlet import STDOUT, Outlet, dropped, standard

Entry = tuple[
    float, bytes, bytes, bytes, bytes, int, str, bytes, bytes, int, int, int, int, float,
]  # fmt: skip
"""One request: monotonic end, id, client, method, target, status, reason, what `members` makes of
route, backend and instance, and `of_consumer` of its consumer (b"" for none), revision, attempts,
bytes of body received and sent, seconds."""

_LABELS = ("route", "backend", "instance")

_LINE = (
    b'{"time":"%b.%03dZ","request_id":"%b","client":"%b","method":"%b","path":"%b",'
    b'"status":%d,"reason":"%b",%b%b,"revision":%d,"attempts":%d,"received":%d,"sent":%d,'
    b'"seconds":%.6f%b}\n'
)


def members(labels: tuple[str, str, str]) -> bytes:
    """How a line names this route, backend and instance."""
    return orjson.dumps(dict(zip(_LABELS, labels, strict=True)))[1:-1]


def of_consumer(name: str) -> bytes:
    """What a line says of a request of the consumer `name`, which needs no escape."""
    return b',"consumer":"%b"' % name.encode()


class AccessLog:
    """Writes entries in batches to a path, to standard output ("-") or nowhere ("off")."""

    __slots__ = ("_outlet", "_owned", "_sampling", "_tails")

    def __init__(self, where: str, sampling: Sampling = EVERY) -> None:
        self._sampling = sampling
        self._tails = {100.0: b""}
        if sampling.percent < 100.0:
            shares = (100.0, sampling.percent)
            self._tails = {share: b',"sample_percent":%.6g' % share for share in shares}
        self._owned = where not in ("-", "off")
        self._outlet: Outlet | None = None
        if self._owned:
            self._outlet = Outlet(None, path=where)
        elif where == "-":
            self._outlet = standard(STDOUT)

    @property
    def is_on(self) -> bool:
        return self._outlet is not None

    @property
    def dropped(self) -> tuple[int, int]:
        """How many lines were lost because there was no room for them or the system refused
        them: of this log, and of whatever else this process had to say."""
        outlet = self._outlet
        return (0 if outlet is None else outlet.dropped), dropped(but=outlet)

    def write(self, entries: Iterable[Entry]) -> None:
        """Hands over a batch, which is written meanwhile: nobody waits for it."""
        if self._outlet is None:
            return
        data = self.lines(entries, time.time() - time.monotonic())
        if data:
            self._outlet.put(data)

    def reopen(self) -> None:
        """Opens the file anew, for one that was moved away; it is looked for by itself, too."""
        if self._owned and self._outlet is not None:
            self._outlet.reopen()

    def lines(self, entries: Iterable[Entry], offset: float) -> bytes:
        """The lines of `entries`; `offset` turns monotonic into wall-clock seconds."""
        lines: list[bytes] = []
        second, stamp = -1, b""
        percent_of, is_every = self._sampling.percent_of, self._sampling.percent >= 100.0
        tails = self._tails
        for (
            ended, request_id, client, method, target, status, reason, place, consumer, revision,
            attempts, received, sent, seconds,
        ) in entries:  # fmt: skip
            if is_every and not target.startswith(HEALTH):
                percent = 100.0
            else:
                percent = percent_of(request_id, target, status, reason, seconds)
                if not percent:
                    continue
            moment = ended + offset
            if not 0.0 <= moment - second < 1.0:
                second = int(moment)
                stamp = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()
            # Request targets hold neither `\\` nor control characters: `"` is all there is.
            path = target.partition(b"?")[0].replace(b'"', b'\\"')
            lines.append(
                _LINE
                % (
                    stamp, (moment - second) * 1000, request_id, client, method, path, status,
                    reason.encode() if reason else b"", place, consumer, revision, attempts,
                    received, sent, seconds, tails[percent],
                )
            )  # fmt: skip
        return b"".join(lines)

    def close(self) -> None:
        """Waits for a moment until all is written."""
        if self._owned and self._outlet is not None:
            self._outlet.close()
        self._outlet = None
