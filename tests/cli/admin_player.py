"""A small real HTTP server that plays the admin API by the contract, in memory.

`with AdminPlayer() as player:` listens on a port of its own choice. A test sets its table and its
live state, and reads what it was asked in `player.asked`.
"""

import copy
import hashlib
import json
import queue
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from gateway.core.edits import merge_patch

TABLE: dict[str, Any] = {
    "routes": {
        "digits": {
            "match": {"path": "/digits"},
            "rewrite": "/predict",
            "split": {"digits-linear": 90, "digits-cnn": 10},
        },
        "square": {"match": "/v1/square", "split": {"square": 1}},
    },
    "backends": {
        "digits-linear": {"instances": ["http://127.0.0.1:8001"]},
        "digits-cnn": {"instances": ["http://127.0.0.1:8002", "http://127.0.0.1:8003"]},
        "square": {"instances": ["http://127.0.0.1:8001"]},
    },
}
ANSWERS = ("1xx", "2xx", "3xx", "4xx", "499", "5xx", "refused")
ACTIONS = {"drain": "draining", "disable": "disabled", "resume": "", "enable": ""}


PLAN = {
    "steps": [
        {"percent": 5, "hold": "120s", "min_requests": 100, "approval": False},
        {"percent": 50, "hold": "120s", "min_requests": 100, "approval": True},
        {"percent": 100, "hold": "0s", "min_requests": 1, "approval": False},
    ]
}


class Problem(Exception):
    def __init__(self, status: int, detail: str, **more: Any) -> None:
        self.status = status
        code = {"code": "not_found"} if status == 404 else {}
        self.body = {"title": "Refused", "status": status, "detail": detail, **code, **more}


class AdminPlayer:
    """The state of the play, and the server that shows it."""

    def __init__(
        self,
        *,
        token: str | None = None,
        viewer: str | None = None,
        table: dict[str, Any] | None = None,
    ) -> None:
        self.tokens = {f"Bearer {one}": role for one, role in
                       ((token, "operator"), (viewer, "viewer")) if one}  # fmt: skip
        self.table: dict[str, Any] = copy.deepcopy(table or TABLE)
        self.revision = 42
        self.revisions: list[dict[str, Any]] = [
            {"revision": 42, "time": "2026-11-22T10:00:00Z", "who": "file", "why": "", "diff": []}
        ]
        self.documents = {42: copy.deepcopy(self.table)}
        self.live: dict[tuple[str, str], dict[str, Any]] = {}
        self.fleet: dict[str, Any] = {}
        self.alerts: list[dict[str, Any]] = []
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.require_if_match = self.broken = False
        self.opened: list[str] = []  # what a file that is applied opens
        self.plan: Any = None
        self.listeners: list[queue.Queue[dict[str, Any] | None]] = []
        self.lock = threading.RLock()
        self.rollouts: dict[str, list[dict[str, Any]]] = {}  # looks at each; the last one stays
        self.mirrors: dict[str, dict[str, Any]] = {}
        self.happened: list[dict[str, Any]] = []  # before anybody listened
        self.lines: dict[str, list[dict[str, Any]]] = {}  # what instances wrote, by backend
        self.told: list[tuple[str, str]] = []  # what processes of which backend were told
        self.pages: dict[str, tuple[str, bytes]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for listener in self.listeners:
            listener.put(None)
        self._server.shutdown()
        self._server.server_close()

    # -- what a test says ---------------------------------------------------------------------

    def set_live(self, backend: str, address: str, **facts: Any) -> None:
        with self.lock:
            self.live.setdefault((backend, address), {}).update(facts)

    def emit(self, event: dict[str, Any]) -> None:
        for listener in list(self.listeners):
            listener.put(event)

    def role(self, authorization: str | None) -> str | None:
        """What the token in that header allows; None for one that is unknown."""
        return self.tokens.get(authorization or "") if self.tokens else "operator"

    # -- reading ------------------------------------------------------------------------------

    def series(self, backends: list[str]) -> dict[str, Any]:
        """The last hour: nothing was counted."""
        nothing = {
            "requests_per_s": [],
            "answers_per_s": {},
            "latency_ms": {"p50": [], "p95": [], "p99": []},
        }
        named = dict.fromkeys(backends, nothing)
        return {"step_s": 10, "until": [], "gateway": nothing, "routes": {}, "backends": named}

    def status(self) -> dict[str, Any]:
        backends = {}
        for name, spec in self.table["backends"].items():
            instances = {u.partition("://")[2]: self._instance(name, u) for u in spec["instances"]}
            backends[name] = {
                "queue_depth": 0,
                "in_flight": sum(one["in_flight"] for one in instances.values()),
                "requests_per_s": 12.5,
                "errors_per_s": 0.0,
                "answers_per_s": {**dict.fromkeys(ANSWERS, 0.0), "2xx": 12.5},
                "latency_ms": {"p50": 1.2, "p95": 3.4, "p99": 9.9},
                "instances": instances,
            }
        routes = {
            name: {"weights": spec["split"], "effective": self.effective(spec["split"])}
            for name, spec in self.table["routes"].items()
        }
        for name, looks in self.rollouts.items():
            routes[name]["rollout"] = looks[0]
        workers = [{"slot": 0, "pid": 4711, "revision": self.revision}]
        return {
            "revision": self.revision, "routes": routes, "backends": backends, "workers": workers,
            "alerts": self.alerts, **({"fleet": self.fleet} if self.fleet else {}),
        }  # fmt: skip

    def _instance(self, backend: str, url: str) -> dict[str, Any]:
        address = url.partition("://")[2]
        report = {"queue": 0, "running": 1, "slots": 4, "wait_ms": 0.5}
        state = self.table["backends"][backend].get("states", {}).get(address, "")
        found = {"url": url, "health": "up", "ejected_s": 0, "in_flight": 0, "report": report}
        return {**found, "state": state, **self.live.get((backend, address), {})}

    def effective(self, split: dict[str, int]) -> dict[str, float]:
        up = {name: weight if self._serves(name) else 0 for name, weight in split.items()}
        total = sum(up.values())
        return {name: weight / total if total else 0.0 for name, weight in up.items()}

    def _serves(self, backend: str) -> bool:
        instances = self.table["backends"][backend]["instances"]
        return any(self._instance(backend, url)["health"] == "up" for url in instances)

    # -- writing ------------------------------------------------------------------------------

    def edit(self, wanted: dict[str, Any], ask: "Ask", tag: str) -> dict[str, Any]:
        """Makes `wanted` the table unless it is a dry run, and answers as every edit does."""
        ask.check_condition(self, tag)
        changes = difference(self.table, wanted)
        previous = self.revision
        if not ask.dry_run:
            self.revision += 1
            self.table = wanted
            self.documents[self.revision] = copy.deepcopy(wanted)
            entry = {
                "revision": self.revision, "time": "2026-11-22T11:00:00Z", "who": "operator",
                "why": ask.reason, "diff": changes,
            }  # fmt: skip
            self.revisions.insert(0, entry)
            self.emit({"type": "edit", **entry, "time": datetime.now(UTC).isoformat()})
        return {
            "revision": self.revision, "previous": previous, "diff": changes,
            "dry_run": ask.dry_run, "applied": {"workers": 0 if ask.dry_run else 1},
        }  # fmt: skip


def tagged(resource: Any) -> str:
    """The entity tag: of the table its revision, of anything else its content."""
    if isinstance(resource, int):
        return f'"{resource}"'
    return f'"{hashlib.sha256(json.dumps(resource).encode()).hexdigest()[:12]}"'


def difference(before: Any, after: Any, at: str = "") -> list[dict[str, Any]]:
    """The deepest values that differ, as the admin API names them."""
    if isinstance(before, dict) and isinstance(after, dict):
        found = []
        for key in {**before, **after}:
            found += difference(before.get(key), after.get(key), f"{at}/{key}")
        return found
    if before == after:
        return []
    op = "add" if before is None else "remove" if after is None else "replace"
    sides = {"before": before, "after": after}
    return [{"op": op, "pointer": at, **{k: v for k, v in sides.items() if v is not None}}]


class Ask:
    """One request, read."""

    def __init__(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        self.method = handler.command
        self.path = [unquote(part) for part in parts.path.split("/")[1:]]
        self.every = parse_qs(parts.query)
        self.query = {key: values[0] for key, values in self.every.items()}
        self.dry_run = self.query.get("dry_run") == "true"
        self.reason = handler.headers.get("X-Change-Reason", "").encode("latin-1").decode()
        self.if_match = handler.headers.get("If-Match")
        self.body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))

    def json(self) -> Any:
        return json.loads(self.body)

    def check_condition(self, player: AdminPlayer, tag: str) -> None:
        """Problem where what has `tag` is not as the request's condition says."""
        if self.if_match is None and player.require_if_match:
            raise Problem(428, "send If-Match with the ETag that you read")
        if self.if_match is not None and self.if_match != tag:
            raise Problem(412, "edited since", etag=tag)


def play(player: AdminPlayer, ask: Ask) -> dict[str, Any]:
    """The answer to `ask`; Problem when it is refused."""
    match (ask.method, *ask.path[2:]):
        case ("GET", "table"):
            return {"revision": player.revision, **player.table}
        case ("GET", "status"):
            return player.status()
        case ("GET", "series"):
            return player.series(ask.every.get("backend", []))
        case ("GET", "history"):
            limit, before = int(ask.query.get("limit", 100)), int(ask.query.get("before", 1 << 53))
            if limit > 1000:
                raise Problem(400, "?limit is a whole number from 1 to 1000")
            older = [edit for edit in player.revisions if edit["revision"] < before]
            page = older[:limit]
            return {"revisions": page, "next": page[-1]["revision"] if older[limit:] else None}
        case ("GET", "history", number):
            return next(e for e in player.revisions if e["revision"] == int(number))
        case ("POST", "history", number, "restore"):
            if int(number) not in player.documents:
                raise Problem(404, f"no revision {number}")
            back = copy.deepcopy(player.documents[int(number)])
            return player.edit(back, ask, tagged(player.revision))
        case ("POST", "apply"):
            return _apply(player, ask)
        case (method, "routes", route, "weights"):
            return _weights(player, ask, method, route)
        case ("POST", "backends", backend, "instances", address, action) if action in ACTIONS:
            wanted = copy.deepcopy(player.table)
            wanted["backends"][backend].setdefault("states", {})[address] = ACTIONS[action]
            return player.edit(wanted, ask, tagged(player.table["backends"][backend]))
        case (method, "routes", route, "rollout", *word) if route in player.table["routes"]:
            return _rollout(player, ask, method, route, word)
        case ("GET", "routes", route, "mirror") if route in player.mirrors:
            return player.mirrors[route]
        case ("GET", "backends", backend, "logs"):
            most, after = int(ask.query.get("lines", 100)), int(ask.query.get("after", 0))
            found = [each for each in player.lines.get(backend, []) if each["number"] > after]
            return {"backend": backend, "lines": found[-most:]}
        case ("POST", "backends", backend, "start" | "stop" | "restart" as word):
            if not ask.dry_run:
                player.told.append((word, backend))
            words = {backend: f"it will {word}"}
            return {"revision": player.revision, "backend": backend, "serves": words}
        case ("PATCH", "backends", backend) if backend in player.table["backends"]:
            wanted = copy.deepcopy(player.table)
            merged = merge_patch(wanted["backends"][backend], ask.json())
            wanted["backends"][backend] = merged
            answer = player.edit(wanted, ask, tagged(player.table["backends"][backend]))
            return {**answer, "serves": {backend: "1 instance will be started"}}
        case ("GET", "backends", backend) if backend in player.table["backends"]:
            return dict(player.table["backends"][backend])
    raise Problem(404, "no such resource")


def _rollout(
    player: AdminPlayer, ask: Ask, method: str, route: str, word: list[str]
) -> dict[str, Any]:
    looks = player.rollouts.get(route)
    if not looks:
        raise Problem(404, f"route {route!r} has no rollout")
    if method == "PUT":
        player.plan = ask.json()
        dry = ask.dry_run
        return {key: each for key, each in looks[0].items() if key != "plan" or dry}
    if word == ["approve"] and looks[0]["state"] != "waiting":
        raise Problem(409, "a rollout that is running cannot approve")
    if method == "POST":
        ask.check_condition(player, tagged(resource(looks[0])))
    return looks.pop(0) if method == "GET" and len(looks) > 1 else looks[0]


def _weights(player: AdminPlayer, ask: Ask, method: str, route: str) -> dict[str, Any]:
    if route not in player.table["routes"]:
        raise Problem(404, f"no route {route!r}")
    split = player.table["routes"][route]["split"]
    if method == "GET":
        effective = player.effective(split)
        known = {"revision": player.revision, "route": route, "weights": split}
        return {**known, "effective": effective}
    wanted = copy.deepcopy(player.table)
    given = ask.json()
    faults = [
        {"pointer": f"/{name}", "code": "weight", "detail": "must be a whole number"}
        for name, weight in given.items()
        if type(weight) is not int or weight < 0
    ]
    if faults:
        raise Problem(400, "weights were refused", errors=faults)
    wanted["routes"][route]["split"] = {**split, **given} if method == "PATCH" else given
    answer = player.edit(wanted, ask, tagged(split))
    weights = wanted["routes"][route]["split"]
    return {**answer, "route": route, "previous": split, "weights": weights}


def _apply(player: AdminPlayer, ask: Ask) -> dict[str, Any]:
    content = yaml.safe_load(ask.body)
    if not isinstance(content, dict) or "routes" not in content:
        faults = [
            {"pointer": "/routes", "code": "missing", "detail": "is missing"},
            {"pointer": "/backends", "code": "empty", "detail": "has no entry"},
        ]
        raise Problem(400, "the file was refused", errors=faults)
    wanted = {"routes": content["routes"], "backends": content["backends"]}
    late = sorted(content.get("gateway") or ())
    answer = player.edit(wanted, ask, tagged(player.revision))
    unserved = [change for change in answer["diff"] if "/serve" in change["pointer"]]
    for change in unserved:
        change["note"] = "nothing was started, replaced or stopped"
    opened = {"opened": player.opened} if player.opened else {}
    return {**answer, "overridden": [], "unserved": unserved, "restart": late, **opened}


def resource(answer: dict[str, Any]) -> Any:
    """What an answer is about, for its entity tag."""
    if "weights" in answer and "route" in answer:
        return answer["weights"]
    return answer.get("revision", answer)


def _handler(player: AdminPlayer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            ask = Ask(self)
            player.asked.append((self.command, self.path, dict(self.headers)))
            role = player.role(self.headers.get("Authorization"))
            if player.broken:
                self.close_connection = True
            elif ask.path[0] != "admin":
                self._page(urlsplit(self.path).path)
            elif role is None:
                self._answer(401, {"title": "Unauthorized", "detail": "a token is required"})
            elif role == "viewer" and self.command != "GET":
                self._answer(403, {"title": "Not allowed", "detail": "a viewer may only read"})
            elif ask.path[2:] == ["events"]:
                self._events(player.happened if "last" in ask.query else [])
            else:
                with player.lock:
                    try:
                        status, body = 200, play(player, ask)
                        if ask.path[2:] == ["status"]:
                            body["role"] = role
                    except Problem as problem:
                        status, body = problem.status, problem.body
                self._answer(status, body)

        do_GET = do_PUT = do_PATCH = do_POST = do_DELETE = _any

        def _page(self, path: str) -> None:
            kind, content = player.pages.get(path, ("text/plain", b"no such page"))
            self.send_response(200 if path in player.pages else 404)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header(
                "Content-Security-Policy", "default-src 'self'; frame-ancestors 'none'"
            )
            self.end_headers()
            self.wfile.write(content)

        def _answer(self, status: int, body: dict[str, Any]) -> None:
            content = json.dumps(body).encode()
            kind = "application/json" if status < 400 else "application/problem+json"
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", tagged(resource(body)))
            self.end_headers()
            self.wfile.write(content)

        def _events(self, before: list[dict[str, Any]]) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.flush()
            listener: queue.Queue[dict[str, Any] | None] = queue.Queue()
            for event in before:
                listener.put(event)
            player.listeners.append(listener)
            self.close_connection = True
            try:
                while (event := listener.get()) is not None:
                    text = f"event: {event['type']}\ndata: {json.dumps(event)}\n\n"
                    self.wfile.write(text.encode())
                    self.wfile.flush()
            except OSError:
                player.listeners.remove(listener)

        def log_message(self, *_: object) -> None:
            """Tests read `asked`, not a log."""

    return Handler


def look(
    state: str = "running", step: int = 1, share: float = 5, e: float = 1.0, held_s: float = 45.4
) -> dict[str, Any]:
    """A look at a rollout."""
    verdict = "failed" if e >= 100 else "well"
    return {
        "route": "digits", "to": "digits-cnn", "state": state, "step": step, "share": share,
        "started": "2026-11-29T10:00:00.000Z", "why": "cnn v2", "revision": 43, "driver": "",
        "held_s": held_s, "requests": 60, "refused": 0, "held": "", "pending": "",
        "guards": {
            "errors": {
                "verdict": verdict, "evidence": e, "threshold": 100.0,
                "canary": {"events": 9, "requests": 212},
                "stable": {"events": 17, "requests": 1908},
                "sentence": f"errors: 9 of 212 against 17 of 1,908 at {share:g} %: E = {e:g}",
            }
        },
        "history": [
            {"time": "2026-11-29T10:00:00.000Z", "state": state, "step": step, "why": "begun"}
        ],
        "plan": PLAN,
    }  # fmt: skip
