"""Which further documents does an instance show because of its model's spec? Pure."""

from typing import Any

Json = dict[str, Any]
VERSION = "1"


def pages_of(info: Json) -> dict[str, Json]:
    """The documents by path, besides those that every instance has."""
    name = info["name"]
    if info["spec"] == "open-inference":
        model = {
            "name": name,
            "versions": [VERSION],
            "platform": "headgate",
            "inputs": info["inputs"],
            "outputs": info["outputs"],
        }
        server = {"name": "headgate", "version": VERSION, "extensions": ["binary_tensor_data"]}
        return {"/v2": server, f"/v2/models/{name}": model}
    if info["spec"].startswith("openai"):
        model = {"id": name, "object": "model", "created": 0, "owned_by": "headgate"}
        return {"/v1/models": {"object": "list", "data": [model]}, f"/v1/models/{name}": model}
    return {}
