"""How do tensors of the Open Inference Protocol lie as bytes, after the JSON that names them?

The protocol's extension for binary tensor data: a header says how long the JSON is, the bytes
of each tensor follow in order, little-endian and row-major; every element of a BYTES tensor
is led by its length in four bytes. Knows nothing of requests but their bodies.
"""

import struct
from typing import Any

from instance.core.errors import Fault, Problem, RequestRefused, refuse

LENGTH = "Inference-Header-Content-Length"
OCTETS = "application/octet-stream"
DTYPES = {
    "BOOL": "bool", "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64",
    "INT8": "int8", "INT16": "int16", "INT32": "int32", "INT64": "int64", "FP16": "float16",
    "FP32": "float32", "FP64": "float64", "BYTES": "object",
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}
_SIZE = struct.Struct("<I")


def split(body: bytes | bytearray, length: str) -> tuple[bytes, memoryview]:
    """(the JSON, what follows it) of a body; `bad_request` when `length` cannot be right."""
    if not (length.isascii() and length.isdigit()) or len(length) > 18:
        raise refuse("bad_request", f"{LENGTH} must be a whole number of bytes")
    end = int(length)
    if end > len(body):
        raise refuse("bad_request", f"{LENGTH} is {end}, but the body has {len(body)} bytes")
    return bytes(body[:end]), memoryview(body)[end:]


def array_from(raw: memoryview, dtype: str, elements: int, pointer: str) -> Any:
    """The flat array of `elements` in `raw`; a fault in its length is told of `pointer`."""
    import numpy as np

    if dtype == "object":
        return _texts(raw, elements, pointer)
    kind = np.dtype(dtype).newbyteorder("<")
    if len(raw) != elements * kind.itemsize:
        fits = f"{elements} elements of {kind.itemsize} bytes"
        raise invalid(pointer, f"{len(raw)} bytes do not hold {fits}")
    if not elements:  # which frombuffer refuses
        return np.empty(0, kind)
    array = np.frombuffer(raw, kind)
    # Libraries want tensors they may write to, at addresses their instructions can read.
    return array if array.flags.writeable and array.flags.aligned else array.copy()


def _texts(raw: memoryview, elements: int, pointer: str) -> Any:
    import numpy as np

    found: list[bytes] = []
    at = 0
    while at < len(raw):
        start = at + _SIZE.size
        end = start + _SIZE.unpack_from(raw, at)[0] if start <= len(raw) else start
        if end > len(raw):
            raise invalid(pointer, f"element {len(found)} ends after the tensor's bytes")
        found.append(bytes(raw[start:end]))
        at = end
    if len(found) != elements:
        raise invalid(pointer, f"the bytes hold {len(found)} elements, not {elements}")
    array = np.empty(elements, dtype="object")
    array[:] = found
    return array


def bytes_of(array: Any) -> bytes:
    """The bytes of an array, as a client unpacks them."""
    if array.dtype.kind in "USO":
        parts: list[bytes] = []
        for value in array.reshape(-1).tolist():
            part = value if isinstance(value, bytes) else str(value).encode()
            parts += (_SIZE.pack(len(part)), part)
        return b"".join(parts)
    raw: bytes = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    return raw


def invalid(pointer: str, detail: str) -> RequestRefused:
    """The refusal of the field at `pointer`."""
    fault = Fault(pointer, "tensor", detail)
    return RequestRefused(Problem("invalid_request", f"{pointer}: {detail}", faults=[fault]))
