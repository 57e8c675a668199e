"""What is written down about each request, and when is it written?

One JSON object per line. A request leaves an `Entry`; lines are made and written together,
shortly after, so that no request waits for a disk and none is formatted on its own. The
query, headers and bodies are never logged: they may hold secrets. Which requests are left
out is `gateway.core.sampling`; they are counted all the same, elsewhere.
"""

import os
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime

import orjson

from gateway.core.sampling import EVERY, HEALTH, Sampling

Labels = tuple[str, str, str]
Entry = tuple[
    float, bytes, bytes, bytes, bytes, int, str, Labels, int, int, int, int, float,
]  # fmt: skip
"""One request: monotonic end, id, client, method, target, status, reason, labels (route,
backend, instance), revision, attempts, bytes of body received and sent, seconds."""

_LINE = (
    b'{"time":"%b.%03dZ","request_id":"%b","client":"%b","method":"%b","path":"%b",'
    b'"status":%d,"reason":"%b",%b,"revision":%d,"attempts":%d,"received":%d,"sent":%d,'
    b'"seconds":%.6f%b}\n'
)


class AccessLog:
    """Writes entries in batches to a path, to standard output ("-") or nowhere ("off")."""

    __slots__ = ("_fd", "_labels", "_owned", "_sampling", "_tails", "dropped")

    def __init__(self, where: str, sampling: Sampling = EVERY) -> None:
        self._sampling = sampling
        self._tails = {100.0: b""}
        if sampling.percent < 100.0:
            shares = (100.0, sampling.percent)
            self._tails = {share: b',"sample_percent":%.6g' % share for share in shares}
        self._owned = False
        self._labels: dict[Labels, bytes] = {}
        self.dropped = 0
        self._fd: int | None = None
        if where == "-":
            self._fd = sys.stdout.fileno()
        elif where != "off":
            self._fd = os.open(where, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
            self._owned = True

    @property
    def is_on(self) -> bool:
        return self._fd is not None

    def write(self, entries: Iterable[Entry]) -> None:
        """Writes a batch. One that fails is lost and counted, and no request notices."""
        if self._fd is None:
            return
        data = self.lines(entries, time.time() - time.monotonic())
        if not data:
            return
        try:
            os.write(self._fd, data)
        except OSError:
            self.dropped += data.count(b"\n")

    def lines(self, entries: Iterable[Entry], offset: float) -> bytes:
        """The lines of `entries`; `offset` turns monotonic into wall-clock seconds."""
        lines: list[bytes] = []
        second, stamp = -1, b""
        percent_of, is_every = self._sampling.percent_of, self._sampling.percent >= 100.0
        tails = self._tails
        known, told = b"", None
        for (
            ended, ident, client, method, target, status, reason, labels, revision, attempts,
            received, sent, seconds,
        ) in entries:  # fmt: skip
            if is_every and not target.startswith(HEALTH):
                percent = 100.0
            else:
                percent = percent_of(ident, target, status, reason, seconds)
                if not percent:
                    continue
            moment = ended + offset
            if not 0.0 <= moment - second < 1.0:
                second = int(moment)
                stamp = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()
            if labels is not told:
                told = labels
                known = self._labels.get(labels) or self._label(labels)
            # Request targets hold neither `\\` nor control characters: `"` is all there is.
            path = target.partition(b"?")[0].replace(b'"', b'\\"')
            lines.append(
                _LINE
                % (
                    stamp, (moment - second) * 1000, ident, client, method, path, status,
                    reason.encode() if reason else b"", known, revision, attempts, received, sent,
                    seconds, tails[percent],
                )
            )  # fmt: skip
        return b"".join(lines)

    def _label(self, labels: Labels) -> bytes:
        if len(self._labels) > 10_000:
            self._labels.clear()
        route, backend, instance = labels
        members = orjson.dumps({"route": route, "backend": backend, "instance": instance})
        self._labels[labels] = members[1:-1]
        return members[1:-1]

    def close(self) -> None:
        if self._owned and self._fd is not None:
            os.close(self._fd)
        self._fd = None
