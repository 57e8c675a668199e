"""The pages of an instance: what it shows besides answers of its model.

Health, what is served, documents, counters, and what the model's spec wants to be there. Who may
see them, and where the model itself is, is the surface's.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from instance.front.driver import Driver
from instance.front.openapi import openapi
from instance.telemetry.metrics import Metrics
from instance.wire.messages import ModelInfo

Json = dict[str, Any]
Page = tuple[int, str, bytes]  # status, media type, body
INSTANCE = "/instance"  # what an instance says of itself, also where /info is LitServe's
PROTOCOL_SERVER = "1"
MODELS = "/v1/models"
_DOCS = Path(__file__).parent / "docs.html"


class Pages:
    """The pages of one model, and of the instance as one that has it alone. `secrets` is what
    clients are asked for, as OpenAPI has it."""

    def __init__(self, driver: Driver, metrics: Metrics, secrets: Callable[[], Json]) -> None:
        self._driver, self._metrics, self._secrets = driver, metrics, secrets
        self.neighbours: Sequence[Pages] = ()  # of other models on the same port
        self._pages: dict[str, Callable[[], Page]] = {}
        self._own: dict[str, Callable[[], Page]] = {}  # those of the model's spec
        self._listed: Json | None = None  # the model as OpenAI's clients have it
        self._has_learned = False
        self.replace(
            ready=self._ready,
            info=lambda: json_page(self.info()),
            openapi=lambda: json_page(self.document()),
            metrics=lambda: self.metrics_of([self]),
        )

    def replace(
        self,
        ready: Callable[[], Page],
        info: Callable[[], Page],
        openapi: Callable[[], Page],
        metrics: Callable[[], Page],
    ) -> None:
        """What is shown of the instance as a whole, by those who know it."""
        settings = self._driver.settings
        self._pages = {
            INSTANCE: info,  # first: a file may have one of the others there
            "/": partial(text_page, 200, "litserve running"),  # what its clients wait for
            settings.health_path: ready,
            "/health/ready": ready,
            "/health/live": partial(text_page, 200, "ok"),
            settings.info_path: self._litserves_info if settings.server else info,
            "/metrics": metrics,
        }
        if settings.documents:
            self._pages["/openapi.json"] = openapi
            self._pages["/docs"] = lambda: (200, "text/html; charset=utf-8", _DOCS.read_bytes())

    def learn(self) -> None:
        """Adds what the model's spec wants, once a worker has said what the model is."""
        info = self._driver.info
        if self._has_learned or not info:
            return
        self._has_learned = True
        self._own = {page: partial(json_page, shown) for page, shown in pages_of(info).items()}
        if info["spec"] == "open-inference":
            self._own["/v2/health/live"] = lambda: json_page({"live": True})
            self._own["/v2/health/ready"] = self._ready_as_json
            for model in model_paths(info):
                self._own[f"{model}/ready"] = partial(self._ready_as_json, name=info["name"])
        elif info["spec"]:
            self._listed = openai_model(info)
            self._own[MODELS] = self._models
        self._pages |= self._own

    def at(self, path: str) -> Callable[[], Page] | None:
        """What gives the page at `path`; None where there is none."""
        return self._pages.get(path)

    def owns(self, path: str) -> bool:
        """Whether `path` is a page of the model's own."""
        return path in self._own

    def document(self) -> Json:
        """The OpenAPI document."""
        return openapi(self._driver.info, self._secrets())

    def info(self) -> Json:
        """What is served, by what, and whether it is ready."""
        driver = self._driver
        info = driver.info
        shown = ("name", "path", "max_batch_size", "batch_timeout_s", "stream", "concurrency")
        return {
            **{key: value for key, value in info.items() if key in shown},
            "max_queue": driver.batcher.policy.max_queue,
            "timeout_s": driver.settings.timeout_s,
            "ready": driver.ready,
            "model": orjson.loads(driver.settings.model_metadata),
            "workers": [
                {"device": worker.info.get("device", worker.device), "state": worker.state.value}
                for worker in driver.workers
            ],
        }

    def metrics_of(self, models: Sequence["Pages"]) -> Page:
        """The counters, which these models share."""
        drivers = [pages._driver for pages in models]
        self._metrics.queue_depth = sum(driver.load.report()[0] for driver in drivers)
        self._metrics.running = sum(driver.load.running for driver in drivers)
        others = [driver for driver in drivers if driver is not self._driver]
        dropped = sum(worker.log_dropped for driver in others for worker in driver.workers)
        self._metrics.log_dropped = self._driver.log_dropped + dropped
        return 200, "text/plain; version=0.0.4; charset=utf-8", self._metrics.render()

    def _ready(self) -> Page:
        return ready_page(self._driver.ready)

    def _ready_as_json(self, **named: str) -> Page:
        """As the Open Inference Protocol has it."""
        ready = self._driver.ready
        return json_page({**named, "ready": ready}, 200 if ready else 503)

    def _litserves_info(self) -> Page:
        """What the LitServer of the file says at /info, and no more."""
        settings = self._driver.settings
        model, server = orjson.loads(settings.model_metadata), orjson.loads(settings.server)
        return json_page({"model": model, "server": server})

    def _models(self) -> Page:
        """All models of this port that OpenAI's clients can ask; of those of one name the first."""
        listed: Json = {}
        for pages in (self, *self.neighbours):
            pages.learn()
            if pages._listed is not None:
                listed.setdefault(pages._listed["id"], pages._listed)
        return json_page({"object": "list", "data": list(listed.values())})


def text_page(status: int, text: str) -> Page:
    return status, "text/plain; charset=utf-8", text.encode()


def json_page(value: Any, status: int = 200) -> Page:
    return status, "application/json", orjson.dumps(value)


def ready_page(ready: bool) -> Page:
    return text_page(200 if ready else 503, "ok" if ready else "not ready")


def model_paths(info: ModelInfo) -> list[str]:
    """Where a model of the Open Inference Protocol is: by its name, and by its version too."""
    path = f"/v2/models/{info['name']}"
    return [path, f"{path}/versions/{info['version']}"]


def openai_model(info: ModelInfo) -> Json:
    """One model in the list that OpenAI's clients ask for."""
    return {"id": info["name"], "object": "model", "created": 0, "owned_by": "headgate"}


def pages_of(info: ModelInfo) -> dict[str, Json]:
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
        return {f"{MODELS}/{name}": openai_model(info)}
    return {}
