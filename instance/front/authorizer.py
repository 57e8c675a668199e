"""The HTTP process's end of the process that authorizes.

Every question is kept until it is answered, late or given up. No answer is no: nothing passes
that was not let in.
"""

import asyncio
import itertools
import time
from collections.abc import Callable
from typing import Any

import orjson

from instance.core.errors import Problem, RequestRefused, refuse
from instance.front.companion import Companion
from instance.settings import Settings
from instance.wire.arena import Room
from instance.wire.frames import Body
from instance.wire.messages import (
    Headers,
    Open,
    PackedReply,
    RequestHead,
    ToAuthorizer,
    VerdictMessage,
    Want,
)
from instance.wire.replies import unpack_reply

MAX_ASKED = 1024  # questions that may wait for an answer
ANSWER_S = 30.0  # for one answer
SWEEP_S = 0.1
AWAY = Problem("not_ready", "whoever authorizes requests is not there", retry_after_s=1.0)
LATE = Problem("deadline", "authorize() did not answer in time")
OnVerdict = Callable[[Problem | None, Headers], None]


class Question:
    """Who is told the answer, until when, and where the body is if it is wanted."""

    __slots__ = ("body", "id", "told", "until")

    def __init__(self, id: int, told: OnVerdict, body: Callable[[], Body], until: float) -> None:
        self.id = id
        self.told = told
        self.body = body
        self.until = until


class Authorizer(Companion[ToAuthorizer, Open | VerdictMessage | Want]):
    """The gate of one model, as the HTTP process sees it."""

    MODULE = "instance.model.authorization"
    WHO = "the process that authorizes"

    def __init__(self, settings: Settings, fail: Callable[[str, BaseException], None]) -> None:
        super().__init__(settings, fail)
        self.secrets: dict[str, Any] = {}  # as OpenAPI describes them
        self._questions: dict[int, Question] = {}
        self._ids = itertools.count(1)
        self._sweeper: asyncio.TimerHandle | None = None
        self._hangs_at = 0.0  # by then it has been asked for long and has said nothing

    def ask(
        self, request: RequestHead, body: Callable[[], Body], until: float, told: OnVerdict
    ) -> Question:
        """Asks whether `request` may come in; `told` gets None for yes, with headers for the
        answer, or why not. Raises RequestRefused at once when there is nobody to ask."""
        if not self.ready:
            raise RequestRefused(AWAY)
        if len(self._questions) >= MAX_ASKED:
            raise refuse("queue_full", "too many requests wait to be authorized", 1.0)
        now = time.monotonic()
        if not self._questions:
            self._hangs_at = now + ANSWER_S
        question = Question(next(self._ids), told, body, min(until, now + ANSWER_S))
        self._questions[question.id] = question
        self.send(("ask", question.id, request))
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)
        return question

    def forget(self, question: Question) -> None:
        """Drops a question whose client left."""
        if self._questions.pop(question.id, None) is not None:
            self.send(("forget", question.id))

    async def stop(self, hurry: asyncio.Future[None]) -> None:
        """Ends the process; what is still asked is answered no."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        await super().stop(hurry)

    def on_end(self) -> None:
        questions, self._questions = self._questions, {}
        for question in questions.values():
            question.told(AWAY, [])

    def on_message(self, message: Open | VerdictMessage | Want) -> None:
        self._hangs_at = time.monotonic() + ANSWER_S
        if message[0] == "verdict":
            self._on_verdict(*message[1:])
        elif message[0] == "want":
            self._send_body(message[1])
        else:
            self.secrets = orjson.loads(message[1])
            self.become_ready()

    def _on_verdict(self, id: int, packed: PackedReply | None, headers: Headers) -> None:
        if (question := self._questions.pop(id, None)) is None:
            return
        reply = None if packed is None else unpack_reply(packed, [])
        assert reply is None or isinstance(reply, Problem)
        question.told(reply, headers)

    def _send_body(self, id: int) -> None:
        if (question := self._questions.get(id)) is not None:
            body = question.body()
            blob = bytes(body.view if isinstance(body, Room) else body)
            self.send(("body", id), [blob] if blob else None)

    def _sweep(self) -> None:
        self._sweeper, now = None, time.monotonic()
        is_hung = now >= self._hangs_at
        for question in [one for one in self._questions.values() if one.until <= now]:
            self.forget(question)
            question.told(LATE, [])
        if is_hung:
            self.replace()
        if self._questions:
            self._sweeper = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)
