"""How is a command declared, with its options, arguments and what completes them?

Nothing of what a command does is imported before it runs: `command` names its function, as
`module:function`.
"""

import importlib
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import click

PROGRAM = "headgate"
NAME = re.compile(r"[\w.:=\[\]-]+")


def load(name: str) -> Callable[..., Any]:
    """The function that `module:function` names below gateway.cli, imported now and not before."""
    module, _, function = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(f"gateway.cli.{module}"), function)
    return found


def live(kind: str) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Completes names that the running gateway knows: route, backend, instance, key or weight."""

    def names(context: click.Context, _: click.Parameter, begun: str) -> list[str]:
        found = load("asking:live_names")(kind, SimpleNamespace(**context.params))
        # What a shell would take for more than a word is no name of ours.
        return [name for name in found if name.startswith(begun) and NAME.fullmatch(name)]

    return names


def option(*names: str, metavar: str = "", **more: Any) -> click.Option:
    """An option; without a `metavar` it is a switch."""
    kind: dict[str, Any] = {"metavar": metavar} if metavar else {"is_flag": True}
    return click.Option([*names], show_envvar=True, **kind, **more)


def command(
    name: str, summary: str, run: str, *parameters: click.Parameter, example: str = ""
) -> click.Command:
    """The command `name`; `run` is `module:function` below gateway.cli."""

    def call(**given: Any) -> int:
        return int(load(run)(SimpleNamespace(**given)))

    return click.Command(
        name,
        params=[*parameters],
        callback=call,
        help=f"{summary[0].upper()}{summary[1:]}.",
        short_help=summary,
        epilog=f"\b\nExample: {PROGRAM} {example or name}",
    )
