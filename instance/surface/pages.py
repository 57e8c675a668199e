"""Which further documents does an instance show because of its model's spec? Pure."""

from typing import Any

Json = dict[str, Any]
PROTOCOL_SERVER = "1"


def model_paths(info: Json) -> list[str]:
    """Where a model of the Open Inference Protocol is: by its name, and by its version too."""
    path = f"/v2/models/{info['name']}"
    return [path, f"{path}/versions/{info['version']}"]


def pages_of(info: Json) -> dict[str, Json]:
    """The documents by path, besides those that every instance has."""
    name = info["name"]
    if info["spec"] == "open-inference":
        model = {
            "name": name,
            "versions": [info["version"]],
            "platform": "headgate",
            "inputs": info["inputs"],
            "outputs": info["outputs"],
        }
        server = {
            "name": "headgate",
            "version": PROTOCOL_SERVER,
            "extensions": ["binary_tensor_data"],
        }
        return {"/v2": server, **dict.fromkeys(model_paths(info), model)}
    if info["spec"].startswith("openai"):
        model = {"id": name, "object": "model", "created": 0, "owned_by": "headgate"}
        return {"/v1/models": {"object": "list", "data": [model]}, f"/v1/models/{name}": model}
    return {}
