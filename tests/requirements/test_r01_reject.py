"""R1: what must be refused is refused, and nothing whole of it reaches an instance."""

from tests.harness import corpora
from tests.harness.cases import Outcome, play
from tests.harness.gateway import one_backend, running_gateway
from tests.harness.origins import one_origin

CORPORA = ("gunicorn_requests", "desync_guardian", "llhttp_requests", "apache_h1", "nginx_host")


def judged(outcome: Outcome) -> str:
    """Why this outcome is no refusal; "" when it is one."""
    if outcome.completed:
        return f"forwarded: {outcome}"
    if fault := outcome.smuggled():
        return fault
    if any(status < 400 for status in outcome.statuses):
        return f"answered as if it were fine: {outcome}"
    if not outcome.statuses and not outcome.ended:
        return f"left hanging: {outcome}"
    return ""


async def test_r01_every_row_marked_reject_is_refused_and_no_whole_request_passes() -> None:
    rows = [
        row
        for row in corpora.rows(*CORPORA)
        if row["verdict"] in ("reject", "reject_or_close", "lenient_only")
        and not row.get("needs_setting")
    ]
    faults = []
    settings = {"head_timeout": "100ms", "body_idle": "100ms"}  # each row is one write
    async with one_origin() as origin, running_gateway(one_backend(origin), **settings) as gateway:
        for row in rows:
            data, half_close = corpora.raw(row), row.get("half_close", False)
            outcome = await play(gateway, origin, [data], half_close=half_close)
            if why := judged(outcome):
                faults.append((row["id"], why))
    assert not (unexplained := corpora.unexplained("r01", faults)), "\n".join(unexplained)
