"""The page in a browser, beside real daemons: what it shows, and what an operator does by it.

May touch: Chromium, the gateway and daemons as subprocesses, a private broker, a site,
.cache/dashboard/ for the pictures of the documents.
Must never: sleep for luck: Playwright waits for what is expected.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import Error, expect

from tests.dashboard.conftest import ADMIN, NAME, READ
from tests.rig.clients.chromium import axe, looking
from tests.rig.daemon import Daemon, until
from tests.rig.ports import HOST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

    from tests.dashboard.conftest import House, Started
    from tests.rig.clients.chromium import Scheme
    from tests.rig.daemon import Dispatcher
    from tests.rig.sites.hostel import Hostel
    from tests.server.running import Gateway

PICTURES = Path(__file__).parents[2] / ".cache/dashboard"
HOSTILE = "</td><script>window.owned=1</script><img src=x onerror=window.owned=1>"
SLOW = 60_000  # ms
expect.set_options(timeout=SLOW)


@contextmanager
def signed_in(
    browser: Browser, gateway: Gateway, token: str, scheme: Scheme = "light", width: int = 1280
) -> Iterator[Page]:
    """The page, after its token was typed in and the fleet is seen."""
    with looking(browser, f"http://{HOST}:{gateway.port}/", scheme, width) as page:
        page.locator("#login-token").fill(token)
        page.get_by_role("button", name="Go on").click()
        expect(page.locator("#state-text")).to_have_text("live")
        yield page


def listed(page: Page, panel: str) -> None:
    """Choose List in a panel of dead letters."""
    page.locator(f"#{panel}").get_by_role("button", name="List", exact=True).click()


def publish_result(desk: Dispatcher, result: dict[str, Any]) -> None:
    """Publish a result as whoever may write to the results exchange can."""
    body = json.dumps(result).encode()
    desk.channel.basic_publish(f"{desk.prefix}.results", "failed.dns", body, mandatory=True)


def test_it_shows_jobs_as_they_flow(
    browser: Browser, house: House, desk: Dispatcher, hostel: Hostel
) -> None:
    """Pages, failures and their stories come without a reload, and axe-core finds nothing wrong."""
    with signed_in(browser, house.gateway, ADMIN) as page:
        expect(page.locator("#rows-processes")).to_contain_text(NAME)
        expect(page.locator("#who")).to_have_text("admin (admin)")
        page.keyboard.press("Tab")
        expect(page.get_by_text("Skip to the content")).to_be_focused()
        desk.publish_many([hostel.url(f"/hold/{n}") for n in range(4)])
        expect(page.locator("#tile-flight")).to_have_text("4")
        hostel.release()
        desk.publish({"url": hostel.url("/page/1"), "id": "good", "extract": {"title": "title"}})
        desk.publish({"url": "http://127.0.0.1:1/x?secret=1", "id": "bad", "max_retries": 1})
        expect(page.locator("#rows-results tr", has_text="good")).to_contain_text("ok 200")
        expect(page.locator("#rows-results tr", has_text="bad")).to_contain_text("connect")
        expect(page.locator("#rows-kinds")).to_contain_text("connect")
        page.get_by_label("failures", exact=True).check()
        expect(page.get_by_role("button", name="good")).to_be_hidden()
        page.get_by_role("button", name="bad").click()
        expect(page.locator("#story")).to_contain_text("Attempts before")
        assert axe(page) == []
        page.keyboard.press("Escape")
        page.get_by_text("Of this gateway").click()
        expect(page.locator("#rows-config")).to_contain_text("broker_url")
        page.get_by_text("Of the daemons").click()
        expect(page.locator("#daemons-said")).to_contain_text(f"1 answered: {NAME}")
        row = page.locator("#rows-daemons tr", has_text="politeness.per_host_concurrency")
        expect(row).to_contain_text("2")
        assert not any(word in page.content() for word in ("guest:", "secret-path"))
        assert axe(page) == []


def test_it_is_fit_to_be_seen(
    browser: Browser, house: House, desk: Dispatcher, hostel: Hostel
) -> None:
    """Light, dark and on a phone: nothing wider than the window, no fault of axe-core's; a picture
    of each for the documents.
    """
    urls = [hostel.url(f"/page/{n}") for n in range(60)]
    house.receiver.status = 410
    desk.publish_many(urls[:3], callback="billing", batch={"id": "monday-2026-11-23", "size": 3})
    desk.publish_many(urls[:5], batch={"id": "tuesday-2026-11-24", "size": 8})
    desk.publish_many(
        ["http://127.0.0.1:1/"], max_retries=0, batch={"id": "tuesday-2026-11-24", "size": 8}
    )
    with signed_in(browser, house.gateway, READ) as page:
        for many in (5, 30, 60, 40):
            desk.publish_many(urls[:many], include=["metadata"])
            desk.publish_many(["http://127.0.0.1:1/"] * (many // 10), max_retries=0)
            before = page.locator("#tile-pages").inner_text()
            expect(page.locator("#tile-pages")).not_to_have_text(before)
        # They end with the site, and none is tried again: the next test waits for their end.
        desk.publish_many([hostel.url(f"/hold/{n}") for n in range(12)], max_retries=0)
        expect(page.locator("#rows-hosts")).to_contain_text("permits: all in use")
        looked_at(page, "light", 1280)
    with signed_in(browser, house.gateway, READ, "dark") as page:
        looked_at(page, "dark", 1280)
    with signed_in(browser, house.gateway, READ, "light", 390) as page:
        looked_at(page, "narrow", 390)


def looked_at(page: Page, name: str, width: int) -> None:
    """Look at all of the page, and make its picture."""
    expect(page.locator("#rows-results tr").first).to_be_visible()
    expect(page.locator("#rows-batches tr")).not_to_have_count(0)
    page.get_by_text("Of the daemons").click()
    expect(page.locator("#rows-daemons tr").first).to_be_visible()
    for panel in ("dead", "callbacks"):
        listed(page, panel)
        expect(page.locator(f"#{panel}-said")).to_contain_text("match")
    assert axe(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.evaluate("scrollTo(0, 0)")
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / f"{name}.png")
    page.screenshot(path=PICTURES / f"whole-{name}.png", full_page=True)  # to be looked at


def test_a_dead_letter_is_requeued_and_others_are_purged(
    browser: Browser, house: House, desk: Dispatcher
) -> None:
    """First nothing is changed and a number is shown; then the job runs, and page and log say who
    did it.
    """
    for ident in ("one", "two", "three"):
        desk.publish({"url": "https://example.com/", "id": ident, "proxy": "none"})
    until(lambda: desk.depth("dead") == 3)
    desk.results(3)
    with signed_in(browser, house.gateway, ADMIN) as page:
        listed(page, "dead")
        expect(page.locator("#dead-said")).to_contain_text("3 of 3 dead letters match")
        page.locator("#dead-search").fill("three")
        expect(page.locator("#dead-rows tr:visible")).to_have_count(1)
        page.locator("#dead-search").fill("")
        page.get_by_label("Select the letter of job two").check()
        page.get_by_role("button", name="Requeue 1 selected").click()
        expect(page.locator("#confirm-text")).to_contain_text("1 of 3 dead letters match")
        assert desk.depth("dead") == 3  # nothing was changed yet
        page.get_by_role("button", name="Requeue 1", exact=True).click()
        expect(page.locator("#dead-said")).to_contain_text("1 requeued")
        assert [it["id"] for it in desk.results(1)] == ["two"]
        until(lambda: desk.depth("dead") == 3)  # it died again: its proxy is missing
        page.locator("#dead-reason").select_option("invalid")
        listed(page, "dead")
        expect(page.locator("#dead-said")).to_contain_text("3 of 3 dead letters match")
        page.locator("#dead").get_by_role("button", name="Purge all that match").click()
        page.get_by_role("button", name="Purge 3", exact=True).click()
        expect(page.locator("#dead-said")).to_contain_text("3 purged")
        assert desk.depth("dead") == 0
        expect(page.locator("#rows-actions tr").first).to_contain_text("purge")
    assert done(house.gateway, "dead") == [("admin", "requeue", 1), ("admin", "purge", 3)]


def done(gateway: Gateway, queue: str) -> list[tuple[str, str, int]]:
    """Who has done what to how many dead letters of a queue, by the log."""
    lines = [it for it in gateway.logged("dead_letters") if it["queue"] == queue]
    return [(it["holder"], it["action"], it["jobs"]) for it in lines]


def test_dead_callbacks_are_replayed_and_a_forged_one_is_left(
    browser: Browser, house: House, desk: Dispatcher, hostel: Hostel
) -> None:
    """A replayed callback comes with the same id; a forged one is only meant by its reason."""
    receiver, before = house.receiver, len(house.receiver.taken)
    receiver.status = 410
    for ident in ("first", "second"):
        desk.publish({"url": hostel.url("/page/1"), "id": ident, "callback": "billing"})
    desk.publish(b"{}", queue="callbacks", headers={"x-scraperd-callback-job": "fake"})
    until(lambda: desk.depth("callbacks.dead") == 3)
    receiver.status = 204
    with signed_in(browser, house.gateway, ADMIN) as page:
        expect(page.locator("#tile-callbacks-dead")).to_have_text("3")
        listed(page, "callbacks")
        expect(page.locator("#callbacks-said")).to_contain_text("3 of 3 dead callbacks match")
        expect(page.locator("#callbacks-rows tr", has_text="first")).to_contain_text("billing")
        page.get_by_label("Select the letter of job first").check()
        page.get_by_role("button", name="Replay 1 selected").click()
        expect(page.locator("#confirm-text")).to_contain_text("1 of 3 dead callbacks match")
        assert desk.depth("callbacks.dead") == 3  # nothing was changed yet
        page.get_by_role("button", name="Replay 1", exact=True).click()
        expect(page.locator("#callbacks-said")).to_contain_text("1 replayed")
        receiver.until(before + 3)
        page.get_by_role("button", name="Replay all that match").click()
        expect(page.locator("#confirm-text")).to_contain_text("1 of 2 dead callbacks match")
        page.get_by_role("button", name="Cancel").click()
        page.locator("#callbacks-reason").select_option("forged")
        listed(page, "callbacks")
        page.get_by_role("button", name="Replay all that match").click()
        expect(page.locator("#confirm-go")).to_have_text("Replay 1")
        page.get_by_role("button", name="Cancel").click()
        page.locator("#callbacks").get_by_role("button", name="Purge all that match").click()
        page.get_by_role("button", name="Purge 1", exact=True).click()
        expect(page.locator("#callbacks-said")).to_contain_text("1 purged")
        assert axe(page) == []
    assert desk.depth("callbacks.dead") == 1
    first, again = (it for it in receiver.taken[before:] if it.data["id"] == "first")
    assert (first.ident, first.body) == (again.ident, again.body)
    gateway = house.gateway
    assert done(gateway, "callbacks.dead") == [("admin", "replay", 1), ("admin", "purge", 1)]


def test_batches_are_shown_as_they_fill(
    browser: Browser, house: House, desk: Dispatcher, hostel: Hostel
) -> None:
    """An open batch with its counts, and how it has ended."""
    with signed_in(browser, house.gateway, READ) as page:
        row = page.locator("#rows-batches tr", has_text="friday")
        for number, path in enumerate(("/page/1", "/status/404")):
            job = {
                "url": hostel.url(path),
                "id": f"m{number}",
                "batch": {"id": "friday", "size": 3},
            }
            desk.publish({**job, "max_retries": 0})
        expect(row).to_contain_text("2 of 3")
        expect(row).to_contain_text("ok 1")
        expect(row).to_contain_text("open")
        desk.publish({**job, "id": "m2"})
        expect(row).to_contain_text("done")
        assert axe(page) == []


def test_a_restart_of_daemon_and_gateway_is_survived(
    browser: Browser, started: Started, broker_url: str, dispatcher: Dispatcher
) -> None:
    """The next daemon is shown; without the gateway the page says that it is stale, and with the
    next one it is live again.
    """
    prefix = dispatcher.prefix
    with Daemon(broker_url, prefix).ready() as first, started() as gateway:
        address, port = f"http://{HOST}:{gateway.port}/", gateway.port
        with looking(browser, address, silent=False) as page:  # the gateway goes away meanwhile
            page.locator("#login-token").fill(READ)
            page.get_by_role("button", name="Go on").click()
            expect(page.locator("#rows-processes")).to_contain_text(f":{first.pid} ")
            assert first.drain() == 0
            expect(page.locator("#none-processes")).to_be_visible()
            with Daemon(broker_url, prefix).ready() as second:
                expect(page.locator("#rows-processes")).to_contain_text(f":{second.pid} ")
                assert gateway.drain() == 0
                expect(page.locator("#state-text")).to_contain_text("stale")
                with started(http__listen=f"{HOST}:{port}"):
                    expect(page.locator("#state-text")).to_have_text("live")


def test_nothing_that_others_wrote_becomes_markup(
    browser: Browser, house: House, desk: Dispatcher
) -> None:
    """Ids, URLs, titles and messages are shown as text, and the browser refuses to make more."""
    with signed_in(browser, house.gateway, READ) as page:
        result = {"id": HOSTILE, "url": f"http://h/{HOSTILE}", "status": "failed", "attempt": 1}
        error = {"kind": HOSTILE, "message": f"javascript:{HOSTILE}"}
        publish_result(desk, {**result, "error": error, "worker": HOSTILE})
        publish_result(desk, {**result, "id": "t", "metadata": {"title": HOSTILE}})
        publish_result(desk, {"id": 7, "data": HOSTILE})  # not a result
        desk.publish(
            {"url": f"http://h/{HOSTILE}", "id": HOSTILE}, queue="dead", headers={"x": HOSTILE}
        )
        expect(page.locator("#rows-results tr", has_text="window.owned")).to_have_count(2)
        page.get_by_role("button", name=HOSTILE).click()
        expect(page.locator("#story-title")).to_have_text(f"Job {HOSTILE}")
        page.keyboard.press("Escape")
        listed(page, "dead")
        expect(page.locator("#dead-rows")).to_contain_text(HOSTILE)
        assert page.evaluate("window.owned") is None
        assert page.locator("main script, main img").count() == 0
        with (
            looking(browser, page.url, silent=False) as other,  # the refusal is in its console
            pytest.raises(Error, match="TrustedHTML"),
        ):
            other.evaluate("html => { document.body.innerHTML = html }", HOSTILE)
