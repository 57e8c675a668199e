"""Rollouts: how is one begun, followed, told what to do, and forgotten?

What a plan may say and what becomes of it is `controlplane.rollouts`'; here are the calls.
"""

from typing import Any

from aiohttp import web

from gateway.controlplane.admin.calls import Call, answer, etag
from gateway.controlplane.rollouts.commands import How

Json = Any


async def get_rollout(call: Call) -> web.Response:
    """Where the rollout of one route is, with its evidence; `?plan=true` adds its plan."""
    route = call.part("route")
    body = call.parts.rollouts.shown(route)
    if call.flag("plan"):
        body["plan"] = call.parts.rollouts.plan(route)
    return answer(body, tag=tag_of(body), revision=call.publisher.table.revision)


async def put_rollout(call: Call) -> web.Response:
    """A new rollout, whose first step is in force; Conflict while one runs."""
    said, how = await call.mapping(), _how(call)
    body = await call.parts.rollout_commands.begin(call.part("route"), said, how)
    return _told(call, body, 200 if call.dry_run else 201)


async def command_rollout(call: Call) -> web.Response:
    """The rollout after it was paused, resumed, promoted, approved or aborted."""
    commands, how = call.parts.rollout_commands, _how(call)
    body = await commands.command(call.part("route"), call.part("word"), how)
    return _told(call, body)


async def delete_rollout(call: Call) -> web.Response:
    """What was known of a rollout that has ended, which is forgotten now."""
    commands, how = call.parts.rollout_commands, _how(call)
    return _told(call, await commands.forget(call.part("route"), how))


def tag_of(rollout: Json) -> str:
    """The entity tag of a rollout: another one with each step, not with each request."""
    return etag([rollout[key] for key in ("to", "started", "state", "step", "history")])


def _how(call: Call) -> How:
    """Why, whether it is but tried, and the condition, which is judged when all else is well."""

    def guard(current: Json | None) -> None:
        call.guard(current, None if current is None else tag_of(current))

    return How(call.why, call.dry_run, guard)


def _told(call: Call, body: Json, status: int = 200) -> web.Response:
    revision = call.publisher.table.revision
    return answer(call.tried(body), status=status, tag=tag_of(body), revision=revision)
