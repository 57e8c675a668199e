"""The dashboard in a real browser, on a played gateway."""

import copy
import json
import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.cli.test_rollout import look
from tests.dashboard.conftest import Page
from tests.dashboard.demo import TABLE, Demo

pytestmark = pytest.mark.browser

CNN = '[data-route="digits"] [data-backend="digits-cnn"]'
SLIDER = f'{CNN} input[type="range"]'
EXACT = f'{CNN} input[type="number"]'
WORD = '[data-route="digits"] .word'
APPLY = '[data-route="digits"] button.main'


def split(demo: Demo) -> dict[str, int]:
    return demo.table["routes"]["digits"]["split"]


def give(page: Page, token: str) -> None:
    field = page.find("#token")
    page.until(field.is_displayed)
    field.send_keys(token)
    page.press("#token-form button.main")


def test_it_shows_what_is_live_and_the_console_stays_silent(page: Page, demo: Demo) -> None:
    page.open(demo.url)
    page.until(lambda: page.text("#link-text") == "live")
    page.shows("#facts", "revision 42 · 1 worker")
    page.shows('[data-backend="digits-linear"]', "90.0 %")
    page.until(lambda: len(page.all(".chart path.line")) == 5 * 5)
    page.until(lambda: page.text("#summary").count("7 of 7") == 1)
    assert page.complaints() == []


def test_a_model_that_is_not_loaded_says_what_becomes_of_it(page: Page, demo: Demo) -> None:
    demo.table["backends"]["digits-cnn"]["instances"] = []
    demo.fleet = {"backends": {"digits-cnn": {"state": "asleep"}}}
    page.open(demo.url)
    page.until(lambda: "asleep: the next request loads it" in page.text("#instances-body"))
    waits = "all that are there are in use"
    demo.fleet = {"backends": {"digits-cnn": {"state": "starting", "waits": waits}}}
    page.until(lambda: f"waiting: {waits}" in page.text("#instances-body"))


def test_moving_a_slider_shows_a_dry_run_and_changes_nothing(page: Page, demo: Demo) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    page.open(demo.url)
    page.until(lambda: page.text("#link-text") == "live")

    def dragged() -> bool:  # once more where the page moved it meanwhile
        ActionChains(page.driver).drag_and_drop_by_offset(page.find(SLIDER), 60, 0).perform()
        return page.find(SLIDER).get_property("value") != "10"

    page.until(dragged, "the slider moves")
    page.until(lambda: "Dry run: 2 weights would change" in page.text(WORD), "the dry run")
    assert split(demo) == {"digits-linear": 90, "digits-cnn": 10}
    assert demo.revision == 42
    drawn = {name: int(page.find(f'[data-backend="{name}"] input').get_property("value"))
             for name in split(demo)}  # fmt: skip
    assert sum(drawn.values()) == 100
    page.press('[data-route="digits"] .buttons button')
    page.until(lambda: page.find(EXACT).get_property("value") == "10")
    page.until(lambda: page.hidden('[data-route="digits"] tr.editing'))


def test_an_edit_is_applied_with_its_reason_and_seen_everywhere(page: Page, demo: Demo) -> None:
    page.open(demo.url)
    exact = page.find(EXACT)
    page.write(exact, "35")
    page.until(lambda: "Dry run" in page.text(WORD))
    page.find('[data-route="digits"] .edit input[type="text"]').send_keys("größer")
    page.press(APPLY)
    page.until(lambda: demo.revision == 43)
    with demo.lock:  # all of the edit is made
        assert split(demo) == {"digits-linear": 65, "digits-cnn": 35}
        assert demo.revisions[0]["why"] == "größer"
    page.until(lambda: "revision 43" in page.text("#facts"))
    page.until(lambda: page.all('[data-revision="43"] [data-tone="good"]'), "history names it")
    page.until(lambda: "größer" in page.text("#events-body"), "the event stream tells it")
    announced = "return document.getElementById('announcer').textContent"
    page.until(lambda: "Revision 43" in page.script(announced))


def test_the_keyboard_is_enough_to_edit_a_split(page: Page, demo: Demo) -> None:
    from selenium.webdriver.common.keys import Keys

    page.open(demo.url)
    slider = page.find(SLIDER)
    slider.send_keys(Keys.ARROW_RIGHT * 3)
    page.until(lambda: "Dry run" in page.text(WORD))
    assert slider.get_attribute("aria-valuetext") == "13, 13.0 %"
    slider.send_keys(Keys.ESCAPE)
    assert slider.get_property("value") == "10"
    slider.send_keys(Keys.ARROW_RIGHT)
    page.until(lambda: "Dry run" in page.text(WORD))
    page.find('[data-route="digits"] .edit input[type="text"]').send_keys("one more", Keys.ENTER)
    page.until(lambda: split(demo) == {"digits-linear": 89, "digits-cnn": 11})


def test_an_edit_by_someone_else_moves_the_base_and_not_the_draft(page: Page, demo: Demo) -> None:
    page.open(demo.url)
    exact = page.find(EXACT)
    page.write(exact, "35")
    page.until(lambda: "Dry run" in page.text(WORD))
    with demo.lock:
        demo.table["routes"]["digits"]["split"] = {"digits-linear": 80, "digits-cnn": 20}
        demo.revision = 43
    page.until(lambda: "20 → 35" in page.text('[data-route="digits"] .told'))
    page.until(lambda: "43 → 44" in page.text(WORD))
    assert exact.get_property("value") == "35"


def test_a_share_that_is_small_is_not_shown_as_none(page: Page, demo: Demo) -> None:
    with demo.lock:
        demo.table["routes"]["digits"]["split"] = {"digits-linear": 9999, "digits-cnn": 1}
    page.open(demo.url)
    page.shows('[data-route="digits"] [data-backend="digits-cnn"] [data-label="Share"]', "0.01 %")
    page.shows('[data-route="digits"] [data-backend="digits-linear"] [data-label="Share"]', "99.99")


def test_a_refusal_is_shown_where_the_edit_is(page: Page, demo: Demo) -> None:
    page.open(demo.url)
    exact = page.find(EXACT)
    page.write(exact, "-4")
    assert exact.get_attribute("aria-invalid") == "true"
    page.script("document.querySelector(arguments[0]).blur()", EXACT)
    assert page.find(EXACT).get_property("value") == "10"


def test_an_instance_that_dies_turns_and_the_split_says_so(page: Page, demo: Demo) -> None:
    page.open(demo.url)
    page.until(lambda: page.text('[data-instance="127.0.0.1:8002"] .pill') == "up")
    demo.set_live("digits-cnn", "127.0.0.1:8002", health="down")
    page.until(lambda: page.text('[data-instance="127.0.0.1:8002"] .pill') == "down")
    page.shows('[data-backend="digits-linear"]', "100.0 %")
    page.shows("#summary", "6 of 7")


def test_what_is_wrong_is_above_everything(page: Page, demo: Demo) -> None:
    page.open(demo.url)
    page.until(lambda: page.text("#link-text") == "live")
    assert page.hidden("#alerts")
    wrong = "nothing can serve route digits"
    demo.alerts = [
        {"severity": "critical", "kind": "not_served", "route": "digits", "text": wrong},
        *({"severity": "warning", "kind": "down", "text": f"instance {n}"} for n in range(9)),
    ]
    page.until(lambda: wrong in page.text("#alerts"))
    page.shows("#alerts", "and 2 more")
    order = "return [...document.querySelectorAll('main > section')].map((each) => each.id)"
    assert page.script(order)[0] == "alerts"
    demo.alerts = []
    page.until(lambda: page.hidden("#alerts"))


def test_answers_are_told_apart_and_a_dead_route_says_so(page: Page, demo: Demo) -> None:
    page.open(demo.url)
    page.until(lambda: page.text("#link-text") == "live")
    demo.answers["digits-cnn"] = {"4xx": 17.0, "499": 1.4, "refused": 3.25}
    kinds = f"{CNN} .kind"
    page.until(
        lambda: {"499", "4xx", "refused"} <= {k.get_attribute("data-kind") for k in page.all(kinds)}
    )
    page.until(lambda: page.text(f'{CNN} [data-kind="499"]').split() == ["499", "1.40"])
    page.find(f'{CNN} [data-kind="4xx"][data-tone="warn"]')
    page.shows("#summary", "3.25")
    for address in ("127.0.0.1:8001", "127.0.0.1:8011"):
        demo.set_live("digits-linear", address, health="failing")
    demo.set_live("digits-cnn", "127.0.0.1:8002", health="failing")
    page.until(lambda: page.text('[data-route="digits"] .title .pill') == "not served")
    page.shows(CNN, "0.0 %")
    page.find('[data-route="digits"] .live[data-refusing]')


def test_an_instance_is_drained_and_resumed(page: Page, demo: Demo) -> None:
    page.open(demo.url)
    page.press('[aria-label="drain 127.0.0.1:8002"]')
    page.until(lambda: page.text('[data-instance="127.0.0.1:8002"] .pill') == "draining")
    with demo.lock:
        assert demo.table["backends"]["digits-cnn"]["states"] == {"127.0.0.1:8002": "draining"}
    page.press('[aria-label="resume 127.0.0.1:8002"]')
    page.until(lambda: page.text('[data-instance="127.0.0.1:8002"] .pill') == "up")


def test_a_revision_is_restored_after_showing_what_that_changes(page: Page, demo: Demo) -> None:
    page.open(demo.url)
    exact = page.find(EXACT)
    page.write(exact, "35")
    page.until(lambda: "Dry run" in page.text(WORD))
    page.press(APPLY)
    page.press('[aria-label="Restore revision 42"]')
    page.until(lambda: "35 → 10" in page.text("#confirm-diff"))
    assert demo.revision == 43
    page.find("#confirm-reason").send_keys("worse")
    page.press("#confirm-apply")
    page.until(lambda: demo.revision == 44)
    with demo.lock:
        assert split(demo) == {"digits-linear": 90, "digits-cnn": 10}
        assert demo.revisions[0]["why"] == "worse"


def test_where_somebody_was_quicker_it_shows_what_would_change_now(page: Page, demo: Demo) -> None:
    with demo.lock:
        demo.table["routes"]["digits"]["split"] = {"digits-linear": 65, "digits-cnn": 35}
        demo.revision = 43
    page.open(demo.url)
    page.find(EXACT)
    demo.revisions.insert(0, {**demo.revisions[0], "revision": 43})
    demo.emit({"type": "edit", "revision": 43, "who": "test", "diff": []})
    page.press('[aria-label="Restore revision 42"]')
    page.until(lambda: "35 → 10" in page.text("#confirm-diff"))
    with demo.lock:
        demo.table["routes"]["digits"]["split"] = {"digits-linear": 50, "digits-cnn": 50}
        demo.revision = 44
    page.press("#confirm-apply")
    page.shows("#confirm-fault", "Someone else made an edit meanwhile")
    page.shows("#confirm-diff", "50 → 10")
    assert demo.revision == 44
    page.press("#confirm-apply")
    page.until(lambda: demo.revision == 45)
    page.until(lambda: page.hidden("#confirm-dialog"))


def test_an_edit_grows_old_though_no_other_follows(page: Page, demo: Demo) -> None:
    demo.revisions[0]["time"] = datetime.now(UTC).isoformat()
    page.open(demo.url)
    page.until(lambda: page.text("#link-text") == "live")
    page.until(lambda: page.text("#history-body time") == "just now")
    page.script("const now = Date.now; Date.now = () => now() + 3 * 3600e3")
    page.until(lambda: page.text("#history-body time") == "3 h ago")


def test_r60_the_token_is_asked_for_and_kept_nowhere(page: Page) -> None:
    token = "s" * 40
    with Demo(token=token) as demo:
        page.open(demo.url)
        give(page, "wrong")
        page.until(lambda: page.text("#token-fault") == "That was not the token.")
        give(page, token)
        page.until(lambda: page.text("#link-text") == "live")
        kept = page.script(
            "return [JSON.stringify(localStorage), JSON.stringify(sessionStorage),"
            " document.cookie, location.href, document.documentElement.outerHTML,"
            " document.getElementById('token').value].join(' ')"
        )
        assert token not in kept
        assert all(token not in path for _, path, _ in demo.asked)
        guesses = [
            h for _, path, h in demo.asked if "v1/events" in path and "Authorization" not in h
        ]
        assert guesses == []


def test_a_token_of_odd_characters_is_a_wrong_token(page: Page) -> None:
    # A chat or a word processor puts in what nobody sees, and no header holds it as it is.
    token = "s" * 40
    with Demo(token=token) as demo:
        page.open(demo.url)
        page.find("#token")
        page.resize(1000, 800)
        for odd in ("wrong\u200b", "\u201cwrong\u201d", "\u20ac"):
            page.until(lambda: page.seen("#token"))
            page.script("document.getElementById('token').value = arguments[0]", odd)
            asked = len(demo.asked)
            page.press("#token-form button.main")
            page.until(lambda seen=asked: len(demo.asked) > seen, f"{odd!r} is asked with")
            page.until(lambda: page.seen("#token-dialog"))
            assert page.text("#token-fault") == "That was not the token."
        give(page, token)
        page.until(lambda: page.text("#link-text") == "live")
        assert [each for each in page.complaints() if "401" not in each] == []


def test_r59_a_page_whose_token_is_no_longer_good_asks_for_another_and_asks_nothing_else(
    page: Page,
) -> None:
    old, new = "o" * 40, "n" * 40
    with Demo(token=old) as demo:
        page.open(demo.url)
        give(page, old)
        page.until(lambda: page.text("#link-text") == "live")
        demo.tokens = {f"Bearer {new}": "operator"}
        for listener in demo.listeners:
            listener.put(None)  # as when the gateway was started again
        page.until(lambda: page.seen("#token-dialog"))
        page.until(lambda: page.text("#link-text") == "waiting for the token")

        def is_quiet() -> bool:  # a stream that ended is opened again every two seconds
            asked = len(demo.asked)
            time.sleep(4)
            return len(demo.asked) == asked

        page.until(is_quiet, "nothing is asked once what was under way has been answered")
        give(page, new)
        page.until(lambda: page.text("#link-text") == "live")


def test_a_viewer_sees_everything_and_is_told_why_nothing_can_be_edited(page: Page) -> None:
    viewer, operator = "v" * 40, "s" * 40
    with Demo(token=operator, viewer=viewer) as demo:
        page.open(demo.url)
        give(page, viewer)
        page.until(lambda: page.text("#link-text") == "live")
        page.until(lambda: "may read everything" in page.text("#viewer"))
        page.shows('[data-backend="digits-linear"]', "90.0 %")
        page.until(lambda: len(page.all("#instances [data-instance]")) == 7)
        editing = page.script(
            "return [...document.querySelectorAll('[data-edits]')]"
            ".map((e) => [e.disabled, e.title, e.getAttribute('aria-describedby')])"
        )
        assert len(editing) >= 5 * 2 + 7 * 2
        assert all(
            each == [True, "This token may look and not edit.", "viewer-why"] for each in editing
        ), editing
        page.script("document.querySelector(arguments[0]).click()", '[aria-label^="drain"]')
        assert not any(method != "GET" for method, _, _ in demo.asked)
        assert [each for each in page.complaints() if "401" not in each] == []


def test_a_dialog_that_was_just_cancelled_opens_again(page: Page) -> None:
    with Demo(token="s" * 40, viewer="v" * 40) as demo:
        page.open(demo.url)
        give(page, "v" * 40)
        page.until(lambda: page.seen("#upgrade"))
        # All in one turn: the browser tells of the first end when the second dialog is open.
        press = "for (const it of arguments) document.getElementById(it).click()"
        page.script(press, "upgrade", "token-cancel", "upgrade")
        page.until(lambda: page.seen("#token-dialog"))
        give(page, "s" * 40)
        page.until(lambda: page.enabled(SLIDER))
        page.until(lambda: page.hidden("#token-dialog"))


def test_a_viewer_becomes_an_operator_by_token_and_may_think_better_of_it(page: Page) -> None:
    viewer, operator = "v" * 40, "s" * 40
    with Demo(token=operator, viewer=viewer) as demo:
        page.open(demo.url)
        give(page, viewer)
        page.until(lambda: page.all(SLIDER) and not page.enabled(SLIDER))
        page.press("#upgrade")
        page.press("#token-cancel")
        page.until(lambda: page.hidden("#token-dialog"))
        assert not page.enabled(SLIDER), "still a viewer, and still looking"
        page.press("#upgrade")
        give(page, operator)
        page.until(lambda: page.enabled(SLIDER))
        page.until(lambda: page.hidden("#viewer"))
        page.write(page.find(EXACT), "35")
        page.until(lambda: "Dry run" in page.text(WORD))
        page.press(APPLY)
        page.until(lambda: split(demo) == {"digits-linear": 65, "digits-cnn": 35})


def test_a_route_called_as_what_every_object_has_comes_and_goes(page: Page) -> None:
    table = copy.deepcopy(TABLE)
    table["backends"]["valueOf"] = {"instances": ["http://127.0.0.1:8009"]}
    table["routes"]["toString"] = {"match": "/t", "split": {"valueOf": 1}}
    with Demo(table=table) as demo:
        page.open(demo.url)
        page.press('#scope option[value="toString"]')
        page.until(lambda: page.text("#legend").strip() == "valueOf")
        with demo.lock:
            del demo.table["routes"]["toString"], demo.table["backends"]["valueOf"]
            demo.revision += 1
        page.until(lambda: not page.all('[data-route="toString"]'))
        page.until(lambda: "digits-cnn" in page.text("#legend"))
        page.until(lambda: page.text("#link-text") == "live")
        assert page.complaints() == []


def test_r63_naughty_names_are_shown_as_text(page: Page) -> None:
    names = [
        "<script>window.evil=1</script>", '"><img src=x onerror="window.evil=1">',
        "javascript:window.evil=1", "{{evil}}", "\u202etxet", "a" * 200, "__proto__x",
        "ｔｅｓｔ 🚰",
    ]  # fmt: skip
    table = copy.deepcopy(TABLE)
    for name in names:
        table["backends"][name] = {"instances": ["http://127.0.0.1:8009"]}
        table["routes"][name] = {"match": f"/{name}", "split": {name: 1}}
    with Demo(table=table) as demo:
        demo.revisions[0]["why"] = demo.revisions[0]["who"] = names[1]
        page.open(demo.url)
        page.until(lambda: page.text("#link-text") == "live")
        demo.emit({"type": "effective", "route": names[0], "effective": {names[1]: 1}})
        page.until(lambda: names[0] in page.text("#events-body"))
        page.until(lambda: all(name in page.text("#routes-body") for name in names))
        assert page.script("return window.evil") is None
        assert page.complaints() == []
        page.until(page.fits, "nothing is to the right of the screen")


@pytest.mark.parametrize("width", [320, 390, 768, 1024, 1380, 2560])
def test_nothing_hangs_out_of_the_page_at_any_width(page: Page, demo: Demo, width: int) -> None:
    page.resize(width, 900)
    page.open(demo.url)
    page.until(lambda: page.text("#link-text") == "live")
    exact = page.find(EXACT)
    page.script("arguments[0].value = 35; arguments[0].dispatchEvent(new Event('input'))", exact)
    page.until(lambda: "Dry run" in page.text(WORD))
    wide = (
        "const width = document.documentElement.clientWidth;"
        "return [...document.querySelectorAll('main *')].filter((e) =>"
        " e.getBoundingClientRect().right > width + 1 && !e.closest('.unseen, svg, thead'))"
        ".map((e) => e.outerHTML.slice(0, 90))"
    )
    page.until(lambda: page.script(wide) == [])
    page.until(page.fits, "nothing is to the right of the screen")


def test_it_is_dark_where_people_want_it_dark(page: Page, demo: Demo) -> None:
    page.resize(1380, 900, dark=True)
    page.open(demo.url)
    page.until(lambda: page.text("#link-text") == "live")
    ground = page.script("return getComputedStyle(document.body).backgroundColor")
    assert max(int(part) for part in ground[4:-1].split(",")) < 60


def test_everything_that_can_be_used_has_a_name(page: Page, demo: Demo) -> None:
    page.open(demo.url)
    page.until(lambda: page.text("#link-text") == "live")
    tree = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    used = {"button", "slider", "spinbutton", "textbox", "checkbox", "combobox", "image", "link"}
    nameless = [
        node["role"]["value"]
        for node in tree
        if not node.get("ignored") and node.get("role", {}).get("value") in used
        and not node.get("name", {}).get("value")
    ]  # fmt: skip
    assert nameless == []
    roles = {node["role"]["value"] for node in tree if "role" in node}
    assert {"table", "row", "rowheader", "columnheader", "main", "banner"} <= roles


def test_a_phone_keeps_the_tables_tables_for_screen_readers(page: Page, demo: Demo) -> None:
    page.resize(390, 844)
    page.open(demo.url)
    page.until(lambda: page.text("#link-text") == "live")
    tree = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles = [node["role"]["value"] for node in tree if "role" in node]
    assert roles.count("table") == 2
    assert roles.count("row") > 10


def test_a_gateway_that_leaves_is_said_and_found_again(page: Page) -> None:
    with Demo() as demo:
        page.open(demo.url)
        page.until(lambda: page.text("#link-text") == "live")
        demo.broken = True
        page.until(
            lambda: page.script("return document.getElementById('link').dataset.state") == "lost"
        )
        said = r"no answer; shown: \d\d:\d\d:\d\d"
        page.until(lambda: re.fullmatch(said, page.text("#link-text")))
        drawn = "return getComputedStyle(document.querySelector('main')).filter"
        page.until(lambda: page.script(drawn) != "none")
        page.until(lambda: page.text("#announcer") == "The gateway: no answer")
        demo.broken = False
        page.until(lambda: page.text("#link-text") == "live")
        page.until(lambda: page.script(drawn) == "none")


def test_a_gateway_that_does_not_answer_is_not_called_live(page: Page, demo: Demo) -> None:
    """Its process is stopped, or the network swallows all: nobody refuses the connection."""
    page.open(demo.url)
    page.until(lambda: page.text("#link-text") == "live")
    with demo.lock:
        page.until(lambda: page.text("#link-text").startswith("no answer; shown: "))
    page.until(lambda: page.text("#link-text") == "live")


def test_a_page_in_a_tab_behind_keeps_no_connection(page: Page, demo: Demo) -> None:
    """A browser has six for all its tabs: the seventh would wait for ever."""
    page.open(demo.url)
    page.until(lambda: len(demo.listeners) == 1)
    first = page.driver.current_window_handle
    page.driver.switch_to.new_window("tab")
    page.until(lambda: heard_by(demo) == 0)
    page.driver.close()
    page.driver.switch_to.window(first)
    page.until(lambda: heard_by(demo) == 1)


def heard_by(demo: Demo) -> int:
    """How many follow the events: whoever has left is found out by telling them."""
    demo.emit({"type": "worker", "slot": 0, "what": "joined", "pid": 1})
    return len(demo.listeners)


def test_an_alert_is_told_once_though_its_words_go_on(page: Page, demo: Demo) -> None:
    """A live region that ticks would be read out each second."""
    page.open(demo.url)
    page.until(lambda: page.text("#link-text") == "live")
    page.script(
        "window.told = []; new MutationObserver(() => window.told.push("
        "document.getElementById('announcer').textContent))"
        ".observe(document.getElementById('announcer'), {childList: true})"
    )
    about = {"severity": "warning", "kind": "down", "backend": "digits-cnn", "instance": "a:1"}
    for seconds in (1, 2, 3):
        demo.alerts = [{**about, "text": f"instance a:1 of digits-cnn is down for {seconds} s"}]
        page.shows("#alerts", f"down for {seconds} s")
    assert page.script("return window.told") == ["instance a:1 of digits-cnn is down for 1 s"]
    assert page.all("#alerts [role=status], #alerts [aria-live]") == []


def test_the_last_hour_is_there_for_who_comes_late(page: Page, demo: Demo) -> None:
    ago = datetime.now(UTC) - timedelta(minutes=40)
    demo.happened = [
        {"type": "health", "backend": "digits-cnn", "instance": "127.0.0.1:8002",
         "from": "up", "to": "down", "time": ago.isoformat()},
        {"type": "edit", "revision": 41, "who": "operator", "why": "a try", "diff": [],
         "time": ago.isoformat()},
    ]  # fmt: skip
    page.open(demo.url)
    page.until(lambda: "revision 41 by operator (a try)" in page.text("#events-body"))
    page.shows("#events-body", "up → down")
    lines = """return Math.min(...[...document.querySelectorAll('[data-chart="p99"] path.line')]
        .map((line) => (line.getAttribute("d").match(/L/g) || []).length))"""
    page.until(lambda: page.script(lines) >= 25, "five minutes in full")
    assert not page.all(".edit-mark"), "it was forty minutes ago"
    page.script(
        "const it = document.getElementById('span'); it.value = 'hour';"
        "it.dispatchEvent(new Event('change'))"
    )
    page.until(lambda: page.script(lines) >= 290, "all that was timed in the hour")
    drawn = """return document.querySelector('[data-chart="p99"] svg').textContent"""
    page.until(lambda: "r41" in page.script(drawn))
    page.until(lambda: "−30 min" in page.script(drawn))
    assert page.complaints() == []


def test_the_charts_are_read_with_the_arrow_keys(page: Page, demo: Demo) -> None:
    from selenium.webdriver.common.keys import Keys

    page.open(demo.url)
    page.until(lambda: page.text("#link-text") == "live")
    plot = page.find('[data-chart="requests"] svg')
    page.until(lambda: "digits-linear" in plot.get_attribute("aria-label"))
    page.until(lambda: ", now: " in plot.get_attribute("aria-label"))
    page.script("arguments[0].focus()", plot)
    plot.send_keys(Keys.ARROW_LEFT)
    page.until(lambda: " seconds ago: digits-linear" in plot.get_attribute("aria-label"))


def test_the_screenshot_of_the_readme_is_there_and_small() -> None:
    picture = Path(__file__).parents[2] / "docs" / "images" / "dashboard.png"
    assert picture.stat().st_size < 300_000
    assert json.dumps(picture.read_bytes()[:4].decode("latin-1")) == '"\\u0089PNG"'


def test_a_rollout_shows_its_steps_its_evidence_and_what_a_person_may_say(
    page: Page, demo: Demo
) -> None:
    demo.rollouts["digits"] = [look("waiting", 2, 50, 10.0)]
    page.open(demo.url)
    page.until(lambda: "rollout to digits-cnn, 50 %" in page.text('[data-route="digits"] .rollout'))
    code = "return [...document.querySelectorAll(arguments[0])].map((e) => {})"
    steps, step = '[data-route="digits"] .track li', code.format("e.dataset.step")
    page.until(lambda: page.script(step, steps) == ["passed", "waiting", "ahead"])
    guard = '[data-route="digits"] [data-guard="errors"]'
    page.shows(guard, "9 of 212 against 17 of 1,908 at 50 %")
    page.find(f'{guard} .meter[aria-valuenow="0.50"]')
    assert "null" not in page.text('[data-route="digits"] .rollout')
    words, word = '[data-route="digits"] [data-word]', code.format("e.innerText")
    page.until(lambda: page.script(word, words) == ["approve", "pause", "abort"])
    page.press('[data-route="digits"] [data-word="abort"]')
    page.until(lambda: ("POST", "/admin/v1/routes/digits/rollout/abort") in [
        (method, path) for method, path, _ in demo.asked
    ])  # fmt: skip
    demo.rollouts["digits"] = [look("rolled_back", 2, 0, 119.0)]
    page.until(lambda: "rolled back" in page.text('[data-route="digits"] .rollout'))
    page.until(lambda: not page.all(words))
    page.until(lambda: page.text(f"{guard} .pill") == "failed")
    with demo.lock:
        del demo.rollouts["digits"]
    page.until(lambda: page.hidden('[data-route="digits"] .rollout'))
    assert page.complaints() == []


def test_a_word_for_one_step_of_a_rollout_does_not_lead_on_from_another(
    page: Page, demo: Demo
) -> None:
    demo.require_if_match = True
    moved_on = {**look("running", 2, 50), "revision": 44}
    demo.rollouts["digits"] = [look("running", 1, 5), moved_on]  # as soon as it was looked at
    page.open(demo.url)
    page.press('[data-route="digits"] [data-word="promote"]')
    page.shows("#toast", "the rollout has moved on meanwhile: look again")
    page.shows('[data-route="digits"] .rollout', "rollout to digits-cnn, 50 %")
    page.press('[data-route="digits"] [data-word="promote"]')
    page.shows("#toast", "rollout promote")
    told = [headers.get("If-Match") for method, _, headers in demo.asked if method == "POST"]
    assert told == ['"43"', '"44"']


def test_a_rollout_that_is_held_says_why_though_its_step_is_the_same(
    page: Page, demo: Demo
) -> None:
    demo.rollouts["digits"] = [look("running", 1, 5)]
    page.open(demo.url)
    page.shows('[data-route="digits"] .rollout', "rollout to digits-cnn, 5 %")
    page.shows('[data-route="digits"] [data-needs]', "45s of 120s, 60 of 100 requests")
    held = look("running", 1, 5)
    held["history"] = [*held["history"], {**held["history"][-1], "why": "held: no stable one"}]
    demo.rollouts["digits"] = [held]
    page.shows('[data-route="digits"] [data-last]', "held: no stable one")
    demo.rollouts["digits"] = [{**held, "held": "digits-cnn refuses most requests"}]
    page.shows('[data-route="digits"] [data-last]', "held: digits-cnn refuses most requests")


def test_who_steers_a_rollout_by_keyboard_keeps_their_place(page: Page, demo: Demo) -> None:
    demo.rollouts["digits"] = [look("running", 1, 5)]
    page.open(demo.url)
    page.script("arguments[0].focus()", page.find('[data-word="pause"]'))
    demo.rollouts["digits"] = [look("paused", 1, 5)]
    page.find('[data-word="resume"]')
    page.until(lambda: page.script("return document.activeElement.dataset.word") == "resume")
