"""The Open Inference Protocol, version 2: named tensors in, named tensors out.

`predict` gets a dict of numpy arrays by input name and gives such a dict, or one array.
Tensors travel as JSON or, each as its client wants it, as bytes after the JSON: how those are
laid out is `binary_tensors`' to know.
"""

import re
from math import prod
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

import instance.devices as devices
from instance.model.codec import Parse, UnencodableError, encode_json
from instance.requests import Request, Response
from instance.specs.binary_tensors import (
    DTYPES,
    LENGTH,
    NAMES,
    OCTETS,
    array_from,
    bytes_of,
    invalid,
    split,
)

_VERSION = re.compile(r"[A-Za-z0-9._-]+")


class Tensor(BaseModel):
    """One named tensor; `data` is flat or nested, in row-major order, and left out where the
    tensor lies after the JSON."""

    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = None
    _raw: memoryview | None = PrivateAttr(None)


class WantedOutput(BaseModel):
    name: str
    parameters: dict[str, Any] | None = None


class InferRequest(BaseModel):
    model_config = ConfigDict(extra="allow")

    id: str | None = None
    parameters: dict[str, Any] | None = None
    inputs: list[Tensor] = Field(min_length=1)
    outputs: list[WantedOutput] | None = None


class InferAnswer(BaseModel):
    model_name: str
    model_version: str | None = None
    id: str | None = None
    outputs: list[Tensor]


class OpenInference:
    """The spec around a model of named tensors."""

    name = "open-inference"
    path = "/v2/models/{name}/infer"
    wants_headers = True  # one of them says where the JSON ends
    streams: Literal[False] = False
    request_type: Any = InferRequest
    answer_type: Any = InferAnswer

    def __init__(self, model: str, version: Any) -> None:
        self.model = model
        self.version = str(version)
        if not _VERSION.fullmatch(self.version):
            raise ValueError(f"version must be letters, digits, '.', '_' or '-', not {version!r}")

    def read(self, request: Request, parse: Parse) -> InferRequest:
        """The request, its tensors from JSON or the bytes after it; raises Refused."""
        header = request.headers.get(LENGTH)
        if header is None:
            infer: InferRequest = parse(request)
            attach(infer, None)
        else:
            json, rest = split(request.body, header)
            infer = parse(Request(body=json, content_type="application/json"))
            attach(infer, rest)
        refuse_repeated("inputs", [tensor.name for tensor in infer.inputs])
        refuse_repeated("outputs", [output.name for output in infer.outputs or []])
        binary_outputs(infer)  # a wish that cannot be read is refused before anything is run
        return infer

    def decoded(self, request: InferRequest) -> dict[str, Any]:
        return {tensor.name: array_of(tensor, index) for index, tensor in enumerate(request.inputs)}

    def context(self, request: InferRequest) -> dict[str, Any]:
        return {"id": request.id, "parameters": request.parameters or {}}

    def answer(self, output: Any, request: InferRequest, context: dict[str, Any]) -> Any:
        """The outputs asked for, as JSON or with bytes after it; raises Refused."""
        named = output if isinstance(output, dict) else {"output": output}
        wanted = [one.name for one in request.outputs] if request.outputs else list(named)
        for index, name in enumerate(wanted):
            if name not in named:
                raise invalid(f"/outputs/{index}/name", f"the model has no output {name!r}")
        if not all(isinstance(name, str) for name in named):
            raise UnencodableError("the names of outputs must be text")
        answer: dict[str, Any] = {"model_name": self.model, "model_version": self.version}
        if request.id is not None:
            answer["id"] = request.id
        by_default, binary = binary_outputs(request)
        raws: list[bytes] = []
        answer["outputs"] = [
            tensor_of(name, named[name], raws if binary.get(name, by_default) else None)
            for name in wanted
        ]
        if not raws:
            return answer
        json = encode_json(answer)
        return Response(
            b"".join([json, *raws]), headers={LENGTH: str(len(json))}, media_type=OCTETS
        )


def refuse_repeated(field: str, names: list[str]) -> None:
    """Raises the refusal of a request that names one of its inputs or outputs twice."""
    known: set[str] = set()
    for index, name in enumerate(names):
        if name in known:
            raise invalid(f"/{field}/{index}/name", f"there are two {field} {name!r}")
        known.add(name)


def attach(request: InferRequest, rest: memoryview | None) -> None:
    """Gives each input that has no `data` its bytes of what came after the JSON."""
    at = 0
    for index, tensor in enumerate(request.inputs):
        pointer = f"/inputs/{index}/parameters/binary_data_size"
        size = (tensor.parameters or {}).get("binary_data_size")
        if size is None:
            if tensor.data is None:
                raise invalid(f"/inputs/{index}/data", "Field required")
            continue
        if type(size) is not int or size < 0:
            raise invalid(pointer, "must be a whole number of bytes")
        if tensor.data is not None:
            raise invalid(pointer, "the tensor has `data` already")
        if rest is None:
            raise invalid(pointer, f"needs the header {LENGTH}")
        if size > len(rest) - at:
            raise invalid(pointer, f"{size} bytes are announced and {len(rest) - at} are left")
        tensor._raw = rest[at : at + size]
        at += size
    if rest is not None and at != len(rest):
        raise invalid("/inputs", f"{len(rest) - at} bytes after the JSON belong to no input")


def binary_outputs(request: InferRequest) -> tuple[bool, dict[str, bool]]:
    """(whether outputs go as bytes, for which of them the request says otherwise)."""
    by_default = _flag(request.parameters, "binary_data_output", "")
    said = {}
    for index, output in enumerate(request.outputs or []):
        if "binary_data" in (output.parameters or {}):
            said[output.name] = _flag(output.parameters, "binary_data", f"/outputs/{index}")
    return by_default, said


def _flag(parameters: dict[str, Any] | None, name: str, pointer: str) -> bool:
    value = (parameters or {}).get(name, False)
    if type(value) is not bool:
        raise invalid(f"{pointer}/parameters/{name}", "must be true or false")
    return value


def array_of(tensor: Tensor, index: int) -> Any:
    """The numpy array of `tensor`; `invalid_request` when shape, type and data disagree."""
    import numpy as np

    dtype = DTYPES.get(tensor.datatype)
    if dtype is None:
        raise invalid(f"/inputs/{index}/datatype", f"{tensor.datatype!r} is no datatype")
    if min(tensor.shape, default=1) < 0:
        raise invalid(f"/inputs/{index}/shape", f"{tensor.shape} has a negative size")
    elements = prod(tensor.shape)
    if tensor._raw is not None:
        pointer = f"/inputs/{index}/parameters/binary_data_size"
        return array_from(tensor._raw, dtype, elements, pointer).reshape(tensor.shape)
    try:
        with np.errstate(over="ignore"):
            array = np.array(tensor.data, dtype=dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise invalid(f"/inputs/{index}/data", f"is not {tensor.datatype}: {error}") from None
    if not _is_kept(tensor.data, array):
        raise invalid(f"/inputs/{index}/data", f"holds what is not {tensor.datatype}")
    if array.size != elements:
        raise invalid(
            f"/inputs/{index}/shape", f"{tensor.shape} does not fit {array.size} elements"
        )
    return array.reshape(tensor.shape)


def _is_kept(data: Any, array: Any) -> bool:
    """Whether numpy made `array` of `data` without a change: it reads numbers in text, NaN in null,
    infinity in what is too large, cuts off what is behind a point, and calls all true or false."""
    import numpy as np

    if array.dtype.kind == "O":
        return all(isinstance(value, str) for value in array.flat)
    found = np.array(data)
    if not found.size:
        return True
    if array.dtype.kind == "b":
        return found.dtype.kind == "b"
    if array.dtype.kind == "f":
        numbers = found.dtype.kind in "iuf" or all(type(one) in (int, float) for one in found.flat)
        return numbers and bool(np.isfinite(array).all())
    return found.dtype.kind in "iuf" and bool((array == found).all())


def tensor_of(name: str, value: Any, raws: list[bytes] | None = None) -> dict[str, Any]:
    """`value` as a tensor of the protocol; its bytes are added to `raws` where there is one."""
    import numpy as np

    if hasattr(value, "__torch_function__"):
        value = devices.tensor_value(value)
    try:
        array = np.asarray(value)
    except ValueError as error:  # such as rows of different lengths
        raise UnencodableError(f"output {name!r} is no tensor: {error}") from None
    kind = "object" if array.dtype.kind in "USO" else array.dtype.name
    if kind not in NAMES:
        raise UnencodableError(f"output {name!r} has the type {kind}, which no tensor has")
    if array.dtype.kind == "O":
        kinds = {type(one).__name__ for one in array.flat if not isinstance(one, (str, bytes))}
        if kinds:
            held = " and ".join(sorted(kinds))
            raise UnencodableError(f"output {name!r} holds {held}, which makes no tensor")
    tensor = {"name": name, "shape": list(array.shape), "datatype": NAMES[kind]}
    if raws is None:
        flat = array.reshape(-1).tolist()
        return {**tensor, "data": _as_texts(name, flat) if kind == "object" else flat}
    raws.append(bytes_of(array))
    return {**tensor, "parameters": {"binary_data_size": len(raws[-1])}}


def _as_texts(name: str, elements: list[Any]) -> list[str]:
    """The elements of a BYTES tensor as JSON has them."""
    try:
        return [one.decode() if isinstance(one, bytes) else one for one in elements]
    except UnicodeDecodeError:
        say = "bytes that are no text, which only binary_data_output can carry"
        raise UnencodableError(f"output {name!r} holds {say}") from None
