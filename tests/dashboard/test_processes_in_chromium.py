"""What runs behind a backend, and what can be done with it, in a real browser."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.dashboard.conftest import Page
from tests.dashboard.demo import Demo

pytestmark = pytest.mark.browser

ROW = '[data-instance="127.0.0.1:8002"]'
DETAIL = '[data-of="127.0.0.1:8002"].detail'


def process(address: str, **more: Any) -> dict[str, Any]:
    ago = datetime.now(UTC) - timedelta(minutes=7)
    return {
        "address": address, "pid": 4711, "state": "ready", "model": "models.py:Cnn",
        "source": "/srv/models.py", "version": "0a1b2c3d", "current": True,
        "started": ago.isoformat(), "restarts": 2, "error": None,
        "last_error": "it was ended by SIGKILL", "last_error_at": ago.isoformat(),
        "devices": ["cuda:1"], "memory": 3 << 30, "resident": 512 << 20, **more,
    }  # fmt: skip


def serve(demo: Demo, *processes: dict[str, Any], state: str = "ready", **said: Any) -> None:
    """`headgate up` runs digits-cnn."""
    with demo.lock:
        spec = demo.table["backends"]["digits-cnn"]
        spec["serve"] = {"model": "models.py:Cnn", "args": {"weights": "v2.pt"}, **said}
        served = {"state": state, "waits": None, "error": None, "processes": list(processes)}
        demo.fleet = {"backends": {"digits-cnn": served}}


def test_an_instance_shows_which_model_it_is_and_what_it_wrote_last(page: Page, demo: Demo) -> None:
    failed = process("127.0.0.1:8009", state="failed", pid=None, error="no weights at v3.pt")
    serve(demo, process("127.0.0.1:8002"), failed)
    told = '{"time":"2026-11-29T10:00:01.5+00:00","level":"info","event":"ready: <b>Cnn</b>"}'
    demo.lines["digits-cnn"] = [
        {"number": 1, "instance": "127.0.0.1:8002", "text": told},
        {"number": 2, "instance": "127.0.0.1:8009", "text": "of another one"},
    ]
    page.open(demo.url)
    page.until(lambda: "no weights at v3.pt" in page.text('[data-instance="127.0.0.1:8009"]'))
    page.press(f"{ROW} .fold")
    page.until(lambda: "10:00:01 info ready: <b>Cnn</b>" in page.text(f"{DETAIL} .log"))
    facts = (
        "class Cnn", "file /srv/models.py", "version 0a1b2c3d", 'arguments weights="v2.pt"',
        "device cuda:1", "process 4711", "memory 512 MiB, 3.00 GiB of its device",
        "started 7 min ago", "restarts 2", "last error it was ended by SIGKILL, 7 min ago",
    )  # fmt: skip

    def missing() -> list[str]:
        text = " ".join(page.text(f"{DETAIL} .identity").split())
        return [fact for fact in facts if fact not in text]

    page.until(lambda: not missing(), "all that is known of it")
    assert "of another one" not in page.text(DETAIL)
    page.resize(390, 844)
    page.until(page.fits, "nothing is to the right of the screen")
    page.until(lambda: page.seen(f"{DETAIL} .log"))
    assert page.complaints() == []


def test_a_model_is_scaled_loaded_anew_and_stopped_from_the_page(page: Page, demo: Demo) -> None:
    serve(demo, process("127.0.0.1:8002"), start="demand")
    page.open(demo.url)
    page.write(page.find('[aria-label="Replicas of digits-cnn"]'), "3")
    page.press('[aria-label="scale digits-cnn"]')
    page.until(lambda: "1 instance will be started" in page.text("#confirm-diff"))
    page.shows("#confirm-diff", "replicas")
    assert "replicas" not in demo.table["backends"]["digits-cnn"]["serve"], "so far it is a plan"
    confirm(page)
    page.until(lambda: demo.table["backends"]["digits-cnn"]["serve"].get("replicas") == 3)
    page.until(lambda: page.hidden('[aria-label="scale digits-cnn"]'))

    page.press('[aria-label="reload digits-cnn"]')
    confirm(page)
    page.until(lambda: demo.table["backends"]["digits-cnn"]["serve"].get("generation") == 1)

    page.press('[aria-label="stop digits-cnn"]')
    page.until(lambda: "it will stop" in page.text("#confirm-diff"))
    confirm(page)
    page.until(lambda: demo.told == [("stop", "digits-cnn")])
    serve(demo, state="asleep", start="demand")
    page.press('[aria-label="start digits-cnn"]')
    confirm(page)
    page.until(lambda: demo.told[1:] == [("start", "digits-cnn")])
    assert not page.seen('[aria-label="scale digits-linear"]'), "nobody here starts that one"
    assert page.complaints() == []


def test_a_model_that_starts_with_the_gateway_is_stopped_by_asking_for_none_of_it(
    page: Page, demo: Demo
) -> None:
    serve(demo, process("127.0.0.1:8002"), replicas=2)
    page.open(demo.url)
    page.until(lambda: page.seen('[aria-label="reload digits-cnn"]'))
    assert page.hidden("[data-word]"), "its address is written down"
    with demo.lock:
        demo.table["backends"]["digits-cnn"]["instances"] = ["fleet://digits-cnn"]
    demo.emit({"type": "edit", "revision": 43, "who": "test", "diff": []})
    for word, count in (("stop", 0), ("start", 2)):
        page.until(lambda: page.seen("[data-word]"))
        page.press(f'[aria-label="{word} digits-cnn"]')
        confirm(page)
        page.until(lambda: asked_for(demo) == count)
    assert page.complaints() == []


def asked_for(demo: Demo) -> Any:
    return demo.table["backends"]["digits-cnn"]["serve"].get("replicas")


def confirm(page: Page) -> None:
    """Says yes to what is shown, and sees the question gone."""
    page.until(lambda: page.seen("#confirm-dialog"))
    page.press("#confirm-apply")
    page.until(lambda: page.hidden("#confirm-dialog"))
