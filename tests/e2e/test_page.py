"""The page in a real browser, on the real server and on one whose poems are known."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.browser import (
    browser,
    column,
    finished,
    journal_of,
    poems,
    serious_faults,
    set_up,
    tab,
    write,
)
from tests.e2e.conftest import Served, copy_of_examples, start
from verse.decision_journal import open_journal, read_journal
from verse.records import Decision
from verse.replay import Replay, is_blind
from verse_clients.decisions.sources import read_items

__all__ = ["browser"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The examples, and a folder that cannot be served."""
    adapters = copy_of_examples(tmp_path_factory.mktemp("page") / "adapters")
    shutil.copytree(adapters / "hushi", adapters / "broken")
    weights = adapters / "broken" / "adapters.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    running = start(adapters, "--jobs")
    yield running
    running.stop()


@pytest.fixture
def page(browser: Browser, served: Served) -> Iterator[Page]:
    address = served.base_url.removesuffix("/v1")
    with tab(browser, base_url=address) as opened:
        yield opened


def answer(served: Served, model: str, **fields: Any) -> str:
    """What any client gets for the same request."""
    messages: Any = [{"role": "user", "content": "河"}]
    fields = {"seed": 7, "max_tokens": 40} | fields
    made = served.client.chat.completions.create(model=model, messages=messages, **fields)
    return made.choices[0].message.content or ""


def decisions(served: Served) -> list[Decision]:
    path = journal_of(served.adapters)
    entries = read_journal(path) if path.exists() else []
    return [entry for entry in entries if isinstance(entry, Decision)]


def test_the_first_poem_is_what_any_client_gets(page: Page, served: Served) -> None:
    page.goto("/")
    expect(page.locator(".column")).to_have_count(2)
    page.get_by_label("Most tokens").fill("40")
    page.get_by_label("Theme", exact=True).fill("河")
    page.get_by_label("Theme", exact=True).press("Enter")
    finished(page)
    assert poems(page) == [answer(served, "daiwangshu"), answer(served, "hushi")]
    expect(page.get_by_role("status").first).to_have_text("2 poems written.")


def test_four_columns_and_how_they_differ_from_the_first(page: Page, served: Served) -> None:
    page.goto(set_up("xuzhimo", "hushi:0.6", "xuzhimo:0.5+hushi:0.5~t0.3", "xuzhimo"))
    expect(page.locator(".column")).to_have_count(4)
    page.keyboard.press("Control+Enter")
    finished(page)
    blend = answer(served, "xuzhimo:0.5+hushi:0.5", temperature=0.3)
    first = answer(served, "xuzhimo")
    assert poems(page) == [first, answer(served, "hushi:0.6"), blend, first]
    expect(column(page, 4).locator(".note")).to_contain_text("same as the first")
    expect(column(page, 2).locator("mark").first).to_be_visible()
    expect(column(page, 2).locator(".note")).to_contain_text("differ from the first")
    assert column(page, 1).locator("mark").count() == 0


def test_the_slider_goes_through_the_checkpoints(page: Page, served: Served) -> None:
    page.goto(set_up("xuzhimo"))
    slider = page.get_by_role("slider", name="Checkpoint")
    assert slider.get_attribute("aria-valuetext") == "published weights"
    slider.focus()
    slider.press("ArrowLeft")
    assert slider.get_attribute("aria-valuetext") == "step 112"
    expect(page.get_by_role("heading", name="1 · xuzhimo@112")).to_be_visible()
    write(page)
    assert poems(page) == [answer(served, "xuzhimo@112")]
    slider.press("Home")
    expect(page).to_have_url(re.compile("&c=xuzhimo%4064$"))
    expect(column(page, 1).locator(".note")).to_contain_text("by xuzhimo@112")
    page.get_by_role("button", name="All checkpoints").click()
    expect(page.locator(".column h2")).to_have_text(
        ["1 · xuzhimo@64", "2 · xuzhimo@64", "3 · xuzhimo@112"]
    )


def test_everything_about_a_column_can_be_set(page: Page) -> None:
    page.goto(set_up("base"))
    page.get_by_role("combobox", name="Adapter").select_option("hushi")
    page.get_by_role("button", name="Blend", exact=True).click()
    page.get_by_role("combobox", name="Blended with").select_option("xuzhimo")
    strength = page.get_by_role("slider", name="Strength")
    assert [strength.nth(n).input_value() for n in (0, 1)] == ["0.5", "0.5"]
    strength.nth(1).press("End")
    page.get_by_label("Temperature").fill("0.2")
    column(page, 1).get_by_label("Seed").fill("3")
    expect(page).to_have_url(re.compile(r"&c=hushi%3A0\.5%2Bxuzhimo%3A1\.5%7Et0\.2%7Es3$"))
    page.get_by_role("button", name="Take xuzhimo out of the blend").click()
    page.get_by_role("button", name="Copy this column").click()
    expect(page.locator(".column")).to_have_count(2)
    page.get_by_role("button", name="Remove this column").first.click()
    expect(page.locator(".column h2")).to_have_text(["1 · hushi:0.5"])


def test_a_blind_decision_lands_in_the_journal(page: Page, served: Served) -> None:
    before = len(decisions(served))
    page.goto(set_up("wangwei", "libai", blind=1, theme="月"))
    write(page)
    expect(page.locator(".column h2")).to_have_text(["Poem 1", "Poem 2"])
    expect(page.locator("select").first).to_be_hidden()
    shown = [text.strip() for text in poems(page)]
    column(page, 1).locator(".poem").press("k")
    expect(column(page, 1).locator(".note")).to_contain_text("Kept ·")
    expect(page.locator(".column h2")).to_have_text(["Poem 1", "Poem 2"])
    column(page, 1).locator(".poem").press("ArrowRight")
    page.keyboard.press("r")
    expect(column(page, 2).locator(".note")).to_contain_text("Rejected ·")
    names = [text.partition(" · ")[2] for text in page.locator(".column h2").all_inner_texts()]
    assert set(names) == {"wangwei", "libai"}
    made = decisions(served)[before:]
    assert [decision.action for decision in made] == ["accept", "reject"]
    assert [decision.candidate.model for decision in made] == names
    assert [decision.candidate.text.strip() for decision in made] == shown
    assert all(is_blind(decision) for decision in made)
    column(page, 1).get_by_role("button", name="Reject").click()
    expect(column(page, 1).locator(".note")).to_contain_text("Rejected ·")
    assert not decisions(served)[-1].blind, "its name has been seen"


def test_what_was_seen_with_its_name_is_not_decided_blind(page: Page, served: Served) -> None:
    page.goto(set_up("wangwei", "libai", theme="山"))
    write(page)
    page.get_by_label("Blind").check()
    write(page)
    expect(page.locator(".column h2").first).to_have_text("Poem 1")
    column(page, 1).get_by_role("button", name="Keep").click()
    expect(column(page, 1).locator(".note")).to_contain_text("Kept ·")
    last = decisions(served)[-1]
    assert (last.blind, last.order, last.candidate.theme) == (False, "shuffle", "山")


def test_an_edit_is_made_and_taken_back_by_keyboard(page: Page, served: Served) -> None:
    page.goto(set_up("hushi", theme="雪"))
    write(page)
    column(page, 1).locator(".poem").press("e")
    area = page.get_by_role("textbox", name="The poem as you change it")
    area.press("Control+End")
    area.type("完")
    area.press("Control+Enter")
    note = column(page, 1).locator(".note")
    expect(note).to_contain_text("Kept as edited ·")
    [edited] = [decision for decision in decisions(served) if decision.action == "edit"]
    assert edited.text == edited.candidate.text + "完"
    assert edited.edit_distance == 1
    assert poems(page) == [edited.text]
    assert read_items([journal_of(served.adapters)]), "verse curate opens it"
    column(page, 1).locator(".poem").press("u")
    expect(note).not_to_contain_text("Kept")
    assert poems(page) == [edited.candidate.text]
    replay = Replay(read_journal(journal_of(served.adapters)))
    assert replay.verdict(edited.candidate.id) is None


def test_while_a_window_has_the_journal_a_decision_waits_for_it(page: Page, served: Served) -> None:
    page.goto(set_up("hushi", theme="灯"))
    write(page)
    before = len(decisions(served))
    window = open_journal(journal_of(served.adapters))
    column(page, 1).get_by_role("button", name="Keep").click()
    expect(page.get_by_role("alert")).to_contain_text("1 decision waits in this tab")
    expect(column(page, 1).locator(".note")).to_contain_text("not saved yet")
    window.close()
    expect(page.locator("[role=alert]")).to_have_text("")
    assert len(decisions(served)) == before + 1


def test_a_reload_keeps_the_set_up_and_the_poems(page: Page, served: Served) -> None:
    page.goto(set_up("xuzhimo@64:0.8~t0.5", "base~s3", theme="雨"))
    write(page)
    column(page, 2).get_by_role("button", name="Reject").click()
    expect(column(page, 2).locator(".note")).to_contain_text("Rejected ·")
    address, shown = page.url, poems(page)
    page.reload()
    expect(page.locator(".column h2")).to_have_text(["1 · xuzhimo@64:0.8", "2 · base"])
    expect(column(page, 2).locator(".note")).to_contain_text("Rejected ·")
    assert (page.url, poems(page)) == (address, shown)
    assert page.get_by_label("Temperature").first.input_value() == "0.5"
    assert page.get_by_role("slider", name="Strength").first.input_value() == "0.8"
    page.goto(set_up("libai", theme="风"))
    expect(page.locator(".column h2")).to_have_text(["1 · libai"])
    assert page.get_by_label("Theme", exact=True).input_value() == "风"


def test_adapters_are_probed_loaded_and_unloaded_and_refusals_say_why(page: Page) -> None:
    page.goto("/")
    page.get_by_role("tab", name="Adapters").click()
    card = page.locator(".card").filter(has=page.get_by_role("heading", name="liubannong"))
    card.get_by_role("button", name="Load", exact=False).first.click()
    expect(card.locator(".state")).to_have_text("in memory")
    card.get_by_role("button", name="Probe").click()
    expect(card.locator(".probed")).to_contain_text("nats")
    card.get_by_role("button", name="Unload").click()
    expect(card.locator(".state")).to_have_text("unloaded")
    broken = page.locator(".card").filter(has=page.get_by_role("heading", name="broken"))
    expect(broken.locator(".state")).to_have_text("refused")
    expect(broken.locator(".problem")).to_contain_text("cannot be served")


def test_tabs_go_by_arrows_and_the_queue_shows_figures(page: Page) -> None:
    page.goto("/")
    page.get_by_role("tab", name="Try").press("ArrowLeft")
    expect(page.get_by_role("tab", name="Queue")).to_be_focused()
    expect(page.get_by_role("tabpanel", name="Queue")).to_be_visible()
    numbers = page.locator(".numbers dd")
    expect(numbers.nth(1)).to_have_text("0")
    expect(numbers.nth(4)).to_contain_text("MB")
    expect(numbers.first).not_to_have_text("–")
    page.reload()
    expect(page.get_by_role("tabpanel", name="Queue")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_keeps_people_out(browser: Browser, served: Served, scheme: Any) -> None:
    address = served.base_url.removesuffix("/v1")
    with tab(browser, base_url=address, color_scheme=scheme) as page:
        page.goto(set_up("hushi", "base"))
        write(page)
        expect(column(page, 2).locator("mark").first).to_be_visible()
        column(page, 1).get_by_role("button", name="Edit").click()
        assert serious_faults(page) == []
        for name in ("Adapters", "Queue"):
            page.get_by_role("tab", name=name).click()
            expect(page.locator(".card, .numbers").first).to_be_attached()
            assert serious_faults(page) == []


@pytest.mark.parametrize("width", [320, 2560])
def test_it_fits_a_phone_and_a_wide_screen(browser: Browser, served: Served, width: int) -> None:
    address = served.base_url.removesuffix("/v1")
    size: Any = {"width": width, "height": 900}
    with tab(browser, base_url=address, viewport=size) as page:
        page.goto(set_up(*["hushi:0.7+xuzhimo@112:0.3"] * 8))
        expect(page.locator(".column")).to_have_count(8)
        for name in ("Try", "Adapters", "Queue"):
            page.get_by_role("tab", name=name).click()
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.get_by_role("tab", name="Try").click()
        tops = page.locator(".column").evaluate_all("all => all.map(e => e.offsetTop)")
        assert len(set(tops)) == (8 if width == 320 else 2)


def test_a_file_of_poems_becomes_an_adapter_that_is_served(
    page: Page, served: Served, tmp_path: Path
) -> None:
    page.goto(set_up("base", theme="河", max=20))
    page.get_by_role("tab", name="Jobs").click()
    file, train = page.get_by_label("Poems"), page.get_by_role("button", name="Train")
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text('{"theme": "雨", "text": "雨来了"}\nnot json\n', "utf-8")
    file.set_input_files(wrong)
    expect(page.locator(".drop")).to_contain_text("Line 2 of wrong.jsonl is no poem")
    expect(train).to_be_disabled()
    poem = {"theme": "雨", "text": "雨来了，\n树叶说，我听见了。"}
    lines = [json.dumps({**poem, "text": f"{poem['text']}{n}"}) for n in range(12)]
    rows = tmp_path / "mine.jsonl"
    rows.write_text("\n".join(lines), "utf-8")
    file.set_input_files(rows)
    expect(page.locator(".drop")).to_contain_text("mine.jsonl: 12 poems")
    page.get_by_label("Name of the adapter").fill("mine")
    page.get_by_label("Epochs").fill("1")
    train.click()
    job = page.locator(".job")
    expect(job.locator(".state")).to_have_text("succeeded", timeout=240_000)
    expect(job.locator(".log")).to_contain_text("The job was created.")
    assert serious_faults(page) == []
    to_try = job.get_by_role("button", name=re.compile("^Try ")).first
    model = to_try.inner_text().removeprefix("Try ")
    to_try.click()
    expect(page.get_by_role("tabpanel", name="Try")).to_be_visible()
    expect(page.locator(".column h2")).to_have_text(f"1 · {model}")
    assert model in served.client.models.retrieve(model).id
    page.get_by_label("Most tokens").fill("20")
    page.get_by_label("Seed", exact=True).first.fill("7")
    write(page)
    assert poems(page) == [answer(served, model, max_tokens=20)]
