"""How does one more gateway send requests to the instances of a fleet that somebody else holds?

It looks at the cluster as who holds them does (`keeper`), lets its own requests follow, and places
and ends none: that is for the one `headgate up` of the fleet, which is passed on what gateways ask.
"""

import asyncio
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from gateway.core.placement import FLEET, Place
from gateway.up.on_ray.held import Held, with_a_fleet
from gateway.up.on_ray.keeper import Keeper
from gateway.wire.line import ForFleet, ModelUse, Use

Spec = Mapping[str, Any]
FIRST_LOOKS = 10
RECENT_S = 5.0
"""Who used a model so lately lets whoever holds it know that it is used."""


class Follower(Keeper):
    """A `Keeper` of what others placed."""

    follows = True

    async def start(
        self, specs: Mapping[str, Spec], *, again: bool = False
    ) -> dict[str, list[str]]:
        """Backend → where it is by now."""
        self._want({name: with_a_fleet(name, spec) for name, spec in specs.items()})
        for _ in range(FIRST_LOOKS):
            await self._look_once()
            if all(each.seen.told is not None for each in self._held):
                break
        self._tasks.keep("looking at the cluster", self._look)
        return {
            name: [f"{FLEET}{name}", *(f"http://{at}" for at in asked.in_force)]
            for name, asked in self._desired.wanted.items()
        }

    def take(self, message: ForFleet) -> None:
        """What the control process has to say; what is not for a follower is passed on."""
        match message["type"]:
            case "wake" | "restart":
                self._pass_on(message, message["backend"])
            case "use":
                self._pass_use_on(message)
            case _:
                super().take(message)

    def _pass_use_on(self, message: Use) -> None:
        lately: dict[str, ModelUse] = {
            # There it is busy or not with what comes by that gateway.
            name: {"busy": False, "idle_s": use["idle_s"], "kept": use["kept"]}
            for name, use in message["backends"].items()
            if use["busy"] or use["idle_s"] < RECENT_S
        }
        if lately:
            self._pass_on({"type": "use", "backends": lately}, socket.gethostname())

    def _pass_on(self, message: ForFleet, of: str) -> None:
        self._tasks.run(
            "passing on what was asked", asyncio.to_thread(self._actors.ask, message, of)
        )

    def _want(self, specs: Mapping[str, Spec], out: Mapping[str, Sequence[str]] = {}) -> None:
        super()._want(specs, out)
        self._name_versions()

    async def _look_for_others(self) -> None:
        """Takes over what was placed since, and lets go of what is gone."""
        there = set(await asyncio.to_thread(self._actors.begun))
        for each in self._held:
            each.is_gone |= each.seat.name not in there
        self._adopt(there - {each.seat.name for each in self._held})

    def _start(self, name: str) -> bool:
        return False

    def _stop(self, held: Held) -> bool:
        return False

    def _end(self, held: Held, within_s: float) -> None:
        pass

    def _place(self, step: Place) -> bool:
        return step.backend in self._desired.beside and super()._place(step)
