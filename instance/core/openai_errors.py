"""How do OpenAI's clients read an error? Pure."""

from typing import Any

from instance.core.errors import Problem


def error_of(problem: Problem) -> dict[str, Any]:
    """`problem` as OpenAI's clients read it."""
    return {
        "message": problem.message,
        "type": "invalid_request_error" if problem.status_code < 500 else "server_error",
        "param": None,
        "code": problem.code,
    }
