"""The Open Inference Protocol, version 2: named tensors in, named tensors out.

`predict` gets a dict of numpy arrays by input name and gives such a dict, or one array.
Tensors travel as JSON; the binary extension is not spoken.
"""

from math import prod
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from instance.core.errors import Fault, Problem, Refused
from instance.surface.codec import UnencodableError

DTYPES = {
    "BOOL": "bool", "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64",
    "INT8": "int8", "INT16": "int16", "INT32": "int32", "INT64": "int64", "FP16": "float16",
    "FP32": "float32", "FP64": "float64", "BYTES": "object",
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Tensor(BaseModel):
    """One named tensor; `data` is flat or nested, in row-major order."""

    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] | None = None
    data: list[Any]


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
    streams: Literal[False] = False
    request_type: Any = InferRequest
    answer_type: Any = InferAnswer

    def __init__(self, model: str) -> None:
        self._model = model

    def decoded(self, request: InferRequest) -> dict[str, Any]:
        return {tensor.name: array_of(tensor, index) for index, tensor in enumerate(request.inputs)}

    def context(self, request: InferRequest) -> dict[str, Any]:
        return {"id": request.id, "parameters": request.parameters or {}}

    def answer(self, output: Any, request: InferRequest) -> dict[str, Any]:
        named = output if isinstance(output, dict) else {"output": output}
        wanted = [one.name for one in request.outputs] if request.outputs else list(named)
        for name in wanted:
            if name not in named:
                fault = Fault("/outputs", "unknown", f"the model has no output {name!r}")
                raise Refused(Problem("invalid_request", fault.detail, faults=[fault]))
        answer: dict[str, Any] = {"model_name": self._model}
        if request.id is not None:
            answer["id"] = request.id
        answer["outputs"] = [tensor_of(name, named[name]) for name in wanted]
        return answer


def array_of(tensor: Tensor, index: int) -> Any:
    """The numpy array of `tensor`; `invalid_request` when shape, type and data disagree."""
    import numpy as np

    dtype = DTYPES.get(tensor.datatype)
    if dtype is None:
        raise _invalid(f"/inputs/{index}/datatype", f"{tensor.datatype!r} is no datatype")
    try:
        array = np.array(tensor.data, dtype=dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise _invalid(f"/inputs/{index}/data", f"is not {tensor.datatype}: {error}") from None
    if min(tensor.shape, default=1) < 0 or array.size != prod(tensor.shape):
        raise _invalid(
            f"/inputs/{index}/shape", f"{tensor.shape} does not fit {array.size} elements"
        )
    return array.reshape(tensor.shape)


def tensor_of(name: str, value: Any) -> dict[str, Any]:
    """`value` as a tensor of the protocol."""
    import numpy as np

    if hasattr(value, "__torch_function__"):
        value = value.detach().cpu().numpy()
    array = np.asarray(value)
    kind = "object" if array.dtype.kind in "USO" else array.dtype.name
    if kind not in NAMES:
        raise UnencodableError(f"output {name!r} has the type {kind}, which no tensor has")
    return {
        "name": name,
        "shape": list(array.shape),
        "datatype": NAMES[kind],
        "data": array.reshape(-1).tolist(),
    }


def _invalid(pointer: str, detail: str) -> Refused:
    fault = Fault(pointer, "tensor", detail)
    return Refused(Problem("invalid_request", f"{pointer}: {detail}", faults=[fault]))
