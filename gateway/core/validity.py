"""From when until when does a certificate hold, and is it time to say so?

Reads as much of the DER of X.509 (RFC 5280, section 4.1) as lies before the two moments, and
nothing behind them. Whether anybody trusts the certificate is not asked here.
"""

import base64
import re
from dataclasses import dataclass
from typing import Final, Literal

from gateway.core.units import parse_time

_SEQUENCE: Final = 0x30
_VERSION: Final = 0xA0
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18
_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)
_SOON_S: Final = 14 * 86400.0
_SOON_PART: Final = 0.2

Word = Literal["holds", "early", "soon", "expired"]


@dataclass(frozen=True, slots=True)
class Validity:
    """The two moments between which a certificate holds, in seconds since 1970."""

    not_before: float
    not_after: float

    def word(self, wall_s: float) -> Word:
        """What is to be said of it at `wall_s`: it is not valid yet ("early"), has "expired", or
        will "soon": within two weeks, or a fifth of its time where that is less."""
        if wall_s >= self.not_after:
            return "expired"
        if wall_s < self.not_before:
            return "early"
        least_s = min(_SOON_S, _SOON_PART * (self.not_after - self.not_before))
        return "soon" if self.not_after - wall_s < least_s else "holds"


def validity(pem: bytes) -> Validity:
    """Of the first certificate in `pem`, which is the one that is shown. ValueError if there is
    none that can be read."""
    found = _PEM.search(pem)
    if found is None:
        raise ValueError("no certificate")
    try:
        whole = base64.b64decode(found[1])
        signed = _inside(_inside(whole))
        if signed[0] == _VERSION:
            signed = _after(signed)
        for _ in ("serial number", "signature", "issuer"):
            signed = _after(signed)
        moments = _inside(signed)
        return Validity(_moment(moments), _moment(_after(moments)))
    except (IndexError, UnicodeDecodeError) as error:
        raise ValueError("no certificate that can be read") from error


def _element(data: bytes) -> tuple[int, int, int]:
    """The tag of the element that `data` begins with, and where its content begins and ends."""
    length, begin = data[1], 2
    if length & 0x80:
        begin += length & 0x7F
        length = int.from_bytes(data[2:begin], "big")
    if begin + length > len(data):
        raise IndexError
    return data[0], begin, begin + length


def _inside(data: bytes) -> bytes:
    """The content of the sequence that `data` begins with."""
    tag, begin, end = _element(data)
    if tag != _SEQUENCE:
        raise ValueError("no sequence where one should be")
    return data[begin:end]


def _after(data: bytes) -> bytes:
    return data[_element(data)[2] :]


def _moment(data: bytes) -> float:
    tag, begin, end = _element(data)
    text = data[begin:end].decode("ascii")
    if tag == _UTC_TIME:  # of a century that is not said (RFC 5280, section 4.1.2.5.1)
        text = ("20" if text < "5" else "19") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("no moment where one should be")
    parts = [text[at : at + 2] for at in range(4, 14, 2)]
    return parse_time("{}-{}-{}T{}:{}:{}{}".format(text[:4], *parts, text[14:]))
