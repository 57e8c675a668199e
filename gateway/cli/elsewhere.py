"""What do people type who come from kubectl, docker compose or Caddy, and what is that here?

Words alone, for the line that refuses them: none of them is a command, so that there is one word
for one thing.
"""

import shlex
from collections.abc import Iterator, Mapping

_SHOWN = ("routes", "backends", "status")
_EDITED = ("apply FILE", "weights ROUTE BACKEND=WEIGHT")
_ENDED = (
    "Ctrl-C or SIGTERM ends `headgate up` and all that it started; `headgate stop BACKEND` one"
    " model"
)
_PAGES = "the dashboard and /metrics are at the address that `headgate up` shows as admin"

_WORDS: Mapping[tuple[str, ...], tuple[str, ...] | str] = {
    ("get", "list", "ls", "show", "describe", "inspect"): _SHOWN,
    ("ps", "health", "info", "stats", "ping", "cluster-info"): ("status",),
    ("watch",): ("status --watch", "top"),
    ("run", "serve", "dev", "launch"): ("up FILE",),
    ("down", "kill", "shutdown", "quit", "exit"): _ENDED,
    ("validate", "lint", "verify", "test", "config"): ("check FILE",),
    ("diff", "plan"): ("apply FILE --dry-run",),
    ("edit", "patch", "set", "replace", "deploy", "sync", "add"): _EDITED,
    ("delete", "rm", "remove"): ("apply FILE",),
    ("new", "create", "scaffold"): ("init DIR",),
    ("split", "traffic", "shift"): ("weights ROUTE BACKEND=WEIGHT",),
    ("canary", "promote", "approve", "abort", "pause"): ("rollout ROUTE BACKEND", "help rollout"),
    ("rollback", "undo", "revert"): ("history", "restore REVISION", "rollout abort ROUTE"),
    ("cordon",): ("drain INSTANCE", "disable INSTANCE"),
    ("uncordon",): ("resume INSTANCE", "enable INSTANCE"),
    ("tail", "attach"): ("logs BACKEND -f",),
    ("events", "audit"): ("history", "status --watch"),
    ("dump", "backup"): ("export",),
    ("login", "auth"): ("token",),
    ("secret", "secrets", "user"): ("key add NAME",),
    ("autoscale",): ("scale BACKEND=N",),
    ("explain", "man"): ("help COMMAND", "schema"),
    ("update",): ("upgrade",),
    ("dashboard", "ui", "open", "console", "metrics"): _PAGES,
}  # fmt: skip
_OF_ROLLOUTS = {
    "status": "rollout ROUTE", "history": "history", "undo": "rollout abort ROUTE",
    "cancel": "rollout abort ROUTE", "stop": "rollout abort ROUTE",
    "start": "rollout ROUTE BACKEND", "restart": "reload BACKEND",
}  # fmt: skip
_OPTIONS = {
    "--replicas": ("scale", "write it as: headgate scale BACKEND=N"),
    "--tail": ("logs", "-n does that here"),
    "--detach": ("up", "it stays in the foreground; a service manager keeps it running elsewhere"),
    "-d": ("up", "it stays in the foreground; a service manager keeps it running elsewhere"),
}
_FILES = ("-f", "-c", "--file", "--filename", "--config")


def command(word: str) -> str:
    """What `word` is here, as a line may end; "" where nobody knows."""
    if word.endswith((".py", ".yaml", ".yml")):
        return _see(f"up {shlex.quote(word)}")
    found = next((said for words, said in _WORDS.items() if word in words), "")
    return found if isinstance(found, str) else _see(*found)


def of_rollout(word: str) -> str:
    """What `headgate rollout WORD ROUTE` is here; "" where nobody knows."""
    return _see(_OF_ROLLOUTS[word]) if word in _OF_ROLLOUTS else ""


def option(command: str, name: str, *, takes_file: bool) -> str:
    """What the option `name` of that command is here; "" where nobody knows."""
    if takes_file and name in _FILES:
        return f"the file stands there by itself: headgate {command} FILE"
    of, said = _OPTIONS.get(name, ("", ""))
    return said if of == command else ""


def commands() -> Iterator[str]:
    """Each command that is named, as it is written."""
    for said in (*_WORDS.values(), *((each,) for each in _OF_ROLLOUTS.values())):
        yield from () if isinstance(said, str) else said


def _see(*commands: str) -> str:
    *more, last = (f"`headgate {each}`" for each in commands)
    return f"see {', '.join(more)} or {last}" if more else f"see {last}"
