"""Under which keys is a table kept, and what do they say?

All below one prefix: `head` (the newest number, its checksum, and how far the history reaches),
`revisions/<20 digits>` (one edit and its document, compressed), `applied` (the file last applied),
`gateways/<node>` and `rollouts/<route>` (under the lease of a gateway), `rollout-states/<route>`.
Nothing here asks etcd.
"""

import hashlib
import secrets
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import orjson

from gateway.controlplane.store.store import Kept, Member, Revision, Source, StateRefused, StoreFull
from gateway.core.table import Document

MAX_BYTES = int(1.4 * (1 << 20))  # etcd takes 1.5 MiB in one request
DIGITS = 20


class Keys:
    """The names of the keys below `prefix`."""

    def __init__(self, prefix: str) -> None:
        self.all = f"{prefix.rstrip('/')}/".encode()
        self.head = self.all + b"head"
        self.applied = self.all + b"applied"
        self.revisions = self.all + b"revisions/"
        self.revisions_end = self.revisions + b":"  # it comes after every digit
        self.gateways = self.all + b"gateways/"
        self.rollouts = self.all + b"rollouts/"
        self.kept_rollouts = self.all + b"rollout-states/"

    def revision(self, number: int) -> bytes:
        """Where that revision is; they sort by number."""
        return self.revisions + b"%0*d" % (DIGITS, number)

    def number(self, key: bytes) -> int | None:
        """Which revision is kept as `key`; None where it is none of Headgate's."""
        digits = key.removeprefix(self.revisions)
        return int(digits) if len(digits) == DIGITS and digits.isdigit() else None

    def gateway(self, node: str) -> bytes:
        """Where the gateway of that name says that it is there."""
        return self.gateways + node.encode()


def name_of(key: bytes, prefix: bytes) -> str:
    """What comes after `prefix`, which names a gateway or a route; empty for what names none."""
    try:
        return key.removeprefix(prefix).decode() if key.startswith(prefix) else ""
    except UnicodeDecodeError:
        return ""


@dataclass(frozen=True, slots=True)
class Head:
    """The newest number, the checksum of what is kept of it, the oldest number that is kept, how
    many bytes they all have; and etcd's own revision of this word, 0 where there is none yet."""

    number: int = 0
    checksum: str = ""
    oldest: int = 1
    size: int = 0
    written: int = 0

    def packed(self) -> bytes:
        """What is kept of it."""
        said = {"number": self.number, "checksum": self.checksum}
        return orjson.dumps({**said, "oldest": self.oldest, "bytes": self.size})

    @classmethod
    def read(cls, value: bytes, written: int) -> "Head":
        """StateRefused when it is none."""
        try:
            said = orjson.loads(value)
            facts = int(said["number"]), str(said["checksum"]), int(said["oldest"])
            return cls(*facts, int(said["bytes"]), written)
        except (ValueError, KeyError, TypeError):
            raise StateRefused("etcd: the key `head` is none of Headgate's") from None


def sum_of(value: bytes) -> str:
    """The checksum of a value."""
    return hashlib.sha256(value).hexdigest()


def packed(revision: Revision) -> bytes:
    """What is kept of `revision`, another value each time. StoreFull: etcd would not take it."""
    value = zlib.compress(
        orjson.dumps(
            {
                "number": revision.number,
                "time": revision.time,
                "who": revision.who,
                "why": revision.why,
                "source": revision.source,
                "diff": revision.diff,
                "document": revision.document,
                # Two gateways may make the same edit in the same millisecond: a value says whose
                # it is to who got no answer.
                "by": secrets.token_hex(8),
            }
        )
    )
    return _small_enough(value, f"revision {revision.number}")


def packed_file(applied: Document) -> bytes:
    """What is kept of the file last applied; StoreFull when etcd would not take it."""
    return _small_enough(zlib.compress(orjson.dumps(applied)), "the file")


def _small_enough(value: bytes, what: str) -> bytes:
    if len(value) > MAX_BYTES:
        raise StoreFull(
            f"the edit could not be stored: {what} takes {len(value) / (1 << 20):.2f} MiB"
            " compressed, and etcd no more than 1.4 MiB"
        )
    return value


class _Said(msgspec.Struct):
    number: int
    time: str
    who: str
    why: str
    source: Source
    diff: list[Any]
    document: msgspec.Raw


_decoder = msgspec.json.Decoder(_Said)


def unpacked(value: bytes, number: int) -> Kept:
    """The edit in `value`, which is kept as `number`; StateRefused when it is damaged."""
    try:
        said = _decoder.decode(zlib.decompress(value))
        if said.number != number:
            raise ValueError(f"it is {said.number}")
    except (zlib.error, msgspec.MsgspecError, ValueError) as error:
        raise StateRefused(f"etcd: revision {number} cannot be read ({error})") from None
    facts = (said.number, said.time, said.who, said.why, said.source, said.diff)
    return Kept(*facts, bytes(said.document))


def unpacked_file(value: bytes) -> Document:
    """The file last applied; StateRefused when it is damaged."""
    try:
        found: Document = orjson.loads(zlib.decompress(value))
    except (zlib.error, ValueError) as error:
        raise StateRefused(f"etcd: the key `applied` cannot be read ({error})") from None
    return found


def packed_member(member: Member) -> bytes:
    """What a gateway says of itself."""
    said: Mapping[str, Any] = {
        "applied": member.applied,
        "workers": member.workers,
        "since": member.since,
        "admin": member.admin,
        "id": member.id,
        "finishing": member.finishing,
    }
    return orjson.dumps(said)


def unpacked_member(name: str, value: bytes) -> Member | None:
    """What the gateway `name` says of itself; None where that cannot be understood."""
    try:
        said = orjson.loads(value)
        facts = int(said["applied"]), int(said["workers"]), str(said["since"]), str(said["admin"])
        finishing = tuple(map(str, said.get("finishing", ())))  # an older one does not say
        return Member(name, *facts, str(said.get("id", "")), finishing)
    except (ValueError, KeyError, TypeError):
        return None
