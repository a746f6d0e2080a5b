"""A real Chromium, the distribution's own, and what tests say to the page in it."""

import json
import os
import shutil
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, expect, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
WAIT_MS = 60_000.0
"""Only keeps a test from hanging."""

expect.set_options(timeout=WAIT_MS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for a module. Its event loop runs as long as it does, so no other module gets it."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("there is no Chromium here; on Debian install the package chromium")
    as_root = ["--no-sandbox"] if os.name == "posix" and os.getuid() == 0 else []
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=program, args=[*as_root, "--disable-dev-shm-usage", "--disable-gpu"]
        )
        yield started
        started.close()


@contextmanager
def tab(browser: Browser, *, expected: str = "", **options: Any) -> Generator[Page, None, None]:
    """A tab of a browser that remembers nothing; a script that fails makes the test fail.

    Args:
        browser: Where.
        expected: What a failure that is wanted says.
        options: Of the browser's context.
    """
    context = browser.new_context(**options)
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    faults: list[str] = []

    def note(message: ConsoleMessage) -> None:
        # A refusal that the page expects is logged by the browser as well.
        is_known = "Failed to load resource" in message.text or (
            expected and expected in message.text
        )
        if message.type == "error" and not is_known:
            faults.append(message.text)

    page.on("console", note)
    page.on("pageerror", lambda error: faults.append(str(error)))
    try:
        yield page
    finally:
        context.close()
    assert faults == []


def set_up(*columns: str, theme: str = "河", **fields: object) -> str:
    """What stands behind the address of a set-up."""
    values = {"theme": theme, "seed": 7, "max": 40} | fields
    return f"/#{urlencode([*values.items(), *(('c', column) for column in columns)])}"


def write(page: Page) -> None:
    """Let all columns be written."""
    button(page, "Write").click()
    finished(page)


def finished(page: Page) -> None:
    """Wait until nothing is being written."""
    expect(button(page, "Stop")).to_be_disabled()
    expect(page.locator("[data-state=writing]")).to_have_count(0)


def button(page: Page, name: str) -> Locator:
    """One of the buttons above the columns.

    To look for it in the whole page, Playwright works out the name of every control in it, for
    which the browser lays out what is out of view: with 200 columns that takes seconds, in which
    the page itself stands still.
    """
    return page.locator("#panel-try form").get_by_role("button", name=name, exact=True)


class FrameWork:
    """What the page's main thread did between two frames: at most, in time on the processor.

    Unlike the time on the clock it says nothing of what else the machine had to do.
    """

    most_ms = 0.0


@contextmanager
def frame_work(browser: Browser, page: Page) -> Generator[FrameWork, None, None]:
    """Watch a page that marks each frame as "frame", by the browser's own trace."""
    work = FrameWork()
    browser.start_tracing(page=page, categories=["toplevel", "blink.user_timing"])
    try:
        yield work
        page.evaluate("() => { performance.mark('end'); }")
    finally:
        trace = browser.stop_tracing()
    work.most_ms = _most_work(json.loads(trace)["traceEvents"])


def _most_work(events: list[dict[str, Any]]) -> float:
    """Of the thread that draws: the longest sum of its tasks that no frame divides."""
    [thread] = {(event["pid"], event["tid"]) for event in events if event["name"] == "frame"}
    most = since = end = 0.0
    is_whole = False
    for event in sorted(events, key=lambda event: event.get("ts", 0)):
        if (event["pid"], event["tid"]) != thread:
            continue
        if event["name"] == "frame":
            since = 0.0
        elif "tdur" in event and event["ts"] >= end:  # and so no part of another
            since += event["tdur"] / 1000
            most = max(most, since)
            end = event["ts"] + event["dur"]
        is_whole = is_whole or event["name"] == "end"
    assert is_whole, "the trace ends too early"
    return most


def poems(page: Page) -> list[str]:
    """The texts, as they are shown."""
    return page.locator("div.poem").evaluate_all("boxes => boxes.map(box => box.textContent)")


def column(page: Page, number: int) -> Locator:
    """A column by its place, from 1."""
    return page.locator(".column").nth(number - 1)


def serious_faults(page: Page) -> list[str]:
    """What axe-core finds that keeps people out."""
    found = Axe().run(page)
    return [
        f"{each['id']}: {each['nodes'][0]['html']}"
        for each in found.response["violations"]
        if each["impact"] in ("serious", "critical")
    ]


def journal_of(adapters: Path) -> Path:
    """Where the server keeps decisions unless it is told otherwise."""
    return adapters.with_name("decisions.jsonl")
