"""What can be asked of the admin API? One table; the router, the roles and the OpenAPI
document are all made from it, so that none of them knows an operation the others do not.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from aiohttp import web

from gateway.controlplane.admin import keys as admin_keys
from gateway.controlplane.admin import mirrors as admin_mirrors
from gateway.controlplane.admin import processes as admin_processes
from gateway.controlplane.admin import rollouts as admin_rollouts
from gateway.controlplane.admin import routes as admin_routes
from gateway.controlplane.admin import series as admin_series
from gateway.controlplane.admin import state as admin_state
from gateway.controlplane.admin.calls import Call

Access = Literal["public", "viewer", "operator"]
Handler = Callable[[Call], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. `body` and `answer` name schemas of the OpenAPI document.

    `access` is who may: everybody, any token, or operators. `conditional` operations honour
    If-Match and know dry runs.
    """

    name: str
    method: str
    path: str
    summary: str
    access: Access
    handler: Handler
    body: str | None = None
    answer: str = "Outcome"
    created: bool = False
    missing: bool = True
    tag: str = "table"

    @property
    def writes(self) -> bool:
        return self.access == "operator"


_API = "/admin/v1"
_ROUTE = f"{_API}/routes/{{route}}"
_WEIGHTS = f"{_ROUTE}/weights"
_ROLLOUT = f"{_ROUTE}/rollout"
_BACKEND = f"{_API}/backends/{{backend}}"
_INSTANCES = f"{_BACKEND}/instances"
_KEYS = f"{_API}/keys"
_KEY = f"{_KEYS}/{{name}}"
_HISTORY = f"{_API}/history"

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "getTable", "GET", f"{_API}/table", "The configured table and its revision",
        "viewer", admin_state.get_table, answer="Table", missing=False,
    ),
    Operation(
        "applyFile", "POST", f"{_API}/apply",
        "A whole file's content, three ways: what it changed wins, what only the API changed stays",
        "operator", admin_state.apply_file, "File", "Applied", missing=False,
    ),
    Operation(
        "getRoute", "GET", _ROUTE, "One route as it was written",
        "viewer", admin_routes.get_entry, answer="RouteSpec", tag="routes",
    ),
    Operation(
        "putRoute", "PUT", _ROUTE, "Creates or replaces a route",
        "operator", admin_routes.put_entry, "RouteSpec",
        created=True, missing=False, tag="routes",
    ),
    Operation(
        "patchRoute", "PATCH", _ROUTE, "Changes parts of a route (JSON merge patch)",
        "operator", admin_routes.patch_entry, "RoutePatch", tag="routes",
    ),
    Operation(
        "deleteRoute", "DELETE", _ROUTE, "Removes a route",
        "operator", admin_routes.delete_entry, tag="routes",
    ),
    Operation(
        "getWeights", "GET", _WEIGHTS, "The split of a route, configured and effective",
        "viewer", admin_routes.get_weights, answer="Weights", tag="weights",
    ),
    Operation(
        "putWeights", "PUT", _WEIGHTS, "Sets every weight of a route",
        "operator", admin_routes.put_weights, "WeightsPut", "WeightsOutcome", tag="weights",
    ),
    Operation(
        "patchWeights", "PATCH", _WEIGHTS, "Sets some weights of a route; null takes a backend out",
        "operator", admin_routes.patch_weights, "WeightsPatch", "WeightsOutcome", tag="weights",
    ),
    Operation(
        "getRollout", "GET", _ROLLOUT, "Where a rollout is, and the evidence for and against it",
        "viewer", admin_rollouts.get_rollout, answer="Rollout", tag="rollouts",
    ),
    Operation(
        "putRollout", "PUT", _ROLLOUT,
        "Begins a rollout: its first step is in force when this answers",
        "operator", admin_rollouts.put_rollout, "RolloutPlan", "Rollout",
        created=True, tag="rollouts",
    ),
    Operation(
        "deleteRollout", "DELETE", _ROLLOUT, "Forgets a rollout that has ended",
        "operator", admin_rollouts.delete_rollout, answer="Rollout", tag="rollouts",
    ),
    Operation(
        "commandRollout", "POST", f"{_ROLLOUT}/{{word:pause|resume|promote|approve|abort}}",
        "Pauses or resumes a rollout, goes on to its next step (promote; approve where it waits for"
        " that), or back to its start (abort)",
        "operator", admin_rollouts.command_rollout, answer="Rollout", tag="rollouts",
    ),
    Operation(
        "getMirror", "GET", f"{_ROUTE}/mirror",
        "How often a mirror agrees with what clients get, where it differs, and by how much",
        "viewer", admin_mirrors.get_mirror, answer="Mirror", tag="mirrors",
    ),
    Operation(
        "getBackend", "GET", _BACKEND, "One backend as it was written",
        "viewer", admin_routes.get_entry, answer="BackendSpec", tag="backends",
    ),
    Operation(
        "putBackend", "PUT", _BACKEND, "Creates or replaces a backend",
        "operator", admin_routes.put_entry, "BackendSpec",
        created=True, missing=False, tag="backends",
    ),
    Operation(
        "patchBackend", "PATCH", _BACKEND, "Changes parts of a backend (JSON merge patch)",
        "operator", admin_routes.patch_entry, "BackendPatch", tag="backends",
    ),
    Operation(
        "deleteBackend", "DELETE", _BACKEND, "Removes a backend that no route uses",
        "operator", admin_routes.delete_entry, tag="backends",
    ),
    Operation(
        "addInstance", "POST", _INSTANCES, "Adds an instance to a backend",
        "operator", admin_routes.add_instance, "NewInstance", created=True, tag="instances",
    ),
    Operation(
        "removeInstance", "DELETE", f"{_INSTANCES}/{{address}}",
        "Removes an instance; what it has in flight finishes",
        "operator", admin_routes.remove_instance, tag="instances",
    ),
    Operation(
        "setInstanceState", "POST",
        f"{_INSTANCES}/{{address}}/{{verb:drain|resume|disable|enable}}",
        "Drains, resumes, disables or enables an instance",
        "operator", admin_routes.set_instance_state, tag="instances",
    ),
    Operation(
        "getLogs", "GET", f"{_BACKEND}/logs",
        "The last lines that instances of a backend wrote, where `headgate up` starts them",
        "viewer", admin_processes.get_logs, answer="Logs", tag="backends",
    ),
    Operation(
        "restartBackend", "POST", f"{_BACKEND}/restart",
        "Ends each instance of a backend and starts it again, where `headgate up` starts them",
        "operator", admin_processes.restart, answer="Restarting", tag="backends",
    ),
    Operation(
        "startBackend", "POST", f"{_BACKEND}/start",
        "Loads a model that starts on demand, before any request asks for it",
        "operator", admin_processes.start, answer="Restarting", tag="backends",
    ),
    Operation(
        "stopBackend", "POST", f"{_BACKEND}/stop",
        "Unloads a model that starts on demand, once it has finished what it has",
        "operator", admin_processes.stop, answer="Restarting", tag="backends",
    ),
    Operation(
        "listKeys", "GET", _KEYS, "The keys by their names; no secret is kept or shown",
        "viewer", admin_keys.list_keys, answer="Keys", missing=False, tag="keys",
    ),
    Operation(
        "createKey", "POST", _KEYS, "Makes a key, which this answer alone shows",
        "operator", admin_keys.create_key, "NewKey", "KeyMade",
        created=True, missing=False, tag="keys",
    ),
    Operation(
        "getKey", "GET", _KEY, "One key as it is configured",
        "viewer", admin_routes.get_entry, answer="KeySpec", tag="keys",
    ),
    Operation(
        "patchKey", "PATCH", _KEY, "Changes parts of a key (JSON merge patch)",
        "operator", admin_routes.patch_entry, "KeyPatch", tag="keys",
    ),
    Operation(
        "deleteKey", "DELETE", _KEY, "Revokes a key: no new request is let in by it",
        "operator", admin_routes.delete_entry, tag="keys",
    ),
    Operation(
        "rotateKey", "POST", f"{_KEY}/rotate",
        "Makes a further secret of a key; those before stay valid until they are retired",
        "operator", admin_keys.rotate_key, answer="KeyMade", tag="keys",
    ),
    Operation(
        "retireKey", "POST", f"{_KEY}/retire", "Leaves a key its newest secret alone",
        "operator", admin_keys.retire_key, tag="keys",
    ),
    Operation(
        "getStatus", "GET", f"{_API}/status", "What is live: health, in-flight, rates, workers",
        "viewer", admin_state.get_status, answer="Status", missing=False, tag="live",
    ),
    Operation(
        "getSeries", "GET", f"{_API}/series",
        "The last hour: rates by kind of answer and percentiles, in steps of ten seconds or more",
        "viewer", admin_series.get_series, answer="Series", tag="live",
    ),
    Operation(
        "getHistory", "GET", _HISTORY, "The edits so far, newest first",
        "viewer", admin_state.get_history, answer="History", missing=False, tag="history",
    ),
    Operation(
        "getRevision", "GET", f"{_HISTORY}/{{revision}}", "One revision with its document",
        "viewer", admin_state.get_revision, answer="RevisionDocument", tag="history",
    ),
    Operation(
        "restoreRevision", "POST", f"{_HISTORY}/{{revision}}/restore",
        "Goes back to a revision, as a new one",
        "operator", admin_state.restore_revision, answer="Restored", tag="history",
    ),
    Operation(
        "streamEvents", "GET", f"{_API}/events",
        "Server-sent events: edits, health, ejections, processes",
        "viewer", admin_state.stream_events, answer="EventStream", missing=False, tag="live",
    ),
    Operation(
        "getMetrics", "GET", "/metrics", "Metrics in Prometheus' text format",
        "viewer", admin_state.get_metrics, answer="MetricsText", missing=False, tag="live",
    ),
    Operation(
        "getLivez", "GET", "/livez", "Whether the control process runs",
        "public", admin_state.get_livez, answer="Word", missing=False, tag="live",
    ),
    Operation(
        "getReadyz", "GET", "/readyz", "Whether requests can be served",
        "public", admin_state.get_readyz, answer="Word", missing=False, tag="live",
    ),
)  # fmt: skip
