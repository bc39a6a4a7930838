"""The page in a real Chromium, with no way to the outside: its figures are those of gpt2.inspection."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

import pytest
import torch
from axe_playwright_python.sync_playwright import Axe

from gpt2.inspection import ablate, effect, embedding_map, neighbours, run
from gpt2.serving.history import history
from gpt2.serving.looking import Looker
from gpt2.serving.served import ServedModel
from tests.serving.page.conftest import Page, until

TEXT = "Once upon a time there was a little dog."
VIEWS = ("write", "odds", "surprise", "heads", "head", "layers", "why", "switches", "words", "time", "live")
HOSTILE = "A <img src=x onerror=window.hit=1> <script>window.hit=1</script> dog"


def place(view: str, **state: object) -> str:
    return f"#{view}?{urlencode({'text': TEXT, **state})}"


def percent(p: float) -> float:
    return 100 * p


def number(text: str) -> float:
    """The figure of a printed number, whatever sign and unit it has."""
    match = re.search(r"[+−-]?[\d,]+(\.\d+)?(e[+-]?\d+)?", text)
    assert match, text
    return float(match[0].replace(",", "").replace("−", "-"))


def texts(page: Page, selector: str) -> list[str]:
    """Of all elements, once there is one: an answer may still be on its way on a slow machine."""
    page.locator(selector).first.wait_for()
    return page.locator(selector).all_inner_texts()


@pytest.mark.parametrize("temperature", [0.0, 0.4, 1.0, 3.0])
def test_odds_are_the_softmax_of_the_model_s_logits(visit: Callable, served: ServedModel, temperature: float) -> None:
    page = visit().go(place("odds", t=temperature, at=4))
    logits = run(served.model, served.tokenizer, TEXT).logits[4][: served.tokenizer.vocab_size].double()
    if temperature == 0:
        expected = torch.zeros_like(logits)
        expected[logits.argmax()] = 1
    else:
        expected = (logits / temperature).softmax(dim=-1)
    shown = [number(text) for text in texts(page, ".bars .value")[:10]]
    found = expected.topk(10).values.tolist()
    assert shown == pytest.approx([percent(p) for p in found], rel=6e-3, abs=6e-3)
    entropy = -(expected * expected.clamp(min=1e-300).log()).sum().item()
    assert number(page.locator("[data-wide]").inner_text()) == pytest.approx(math.exp(entropy), abs=6e-3)
    assert "agrees with the model's" in page.locator("[data-check]").inner_text()


def test_top_p_and_top_k_keep_what_the_sampler_keeps(visit: Callable, served: ServedModel) -> None:
    page = visit().go(place("odds", t=1, k=50, p=0.6, at=3))
    p = run(served.model, served.tokenizer, TEXT).logits[3][: served.tokenizer.vocab_size].double().softmax(dim=-1)
    first = p.sort(descending=True).values[:50]
    kept = int((first.cumsum(0) - first < 0.6 * first.sum()).sum())
    assert number(page.locator("[data-kept]").inner_text()) == kept
    assert number(page.locator("[data-cut]").inner_text()) == pytest.approx(
        100 * float(1 - first[:kept].sum()), rel=6e-3
    )


def test_one_head_shows_the_last_keys_and_what_it_takes_most_from(visit: Callable, served: ServedModel) -> None:
    text = 3 * f"{TEXT} "
    looked = run(served.model, served.tokenizer, text)
    patterns = {query: looked.head(0, 0, query).pattern for query in range(20, len(looked.tokens))}
    query, pattern = next((query, p) for query, p in patterns.items() if p.argmax() < query - 15)
    page = visit().go(place("head", text=text, layer=0, head=0, at=query))
    shown = [number(share) for share in texts(page, "[data-share]")]
    assert shown == pytest.approx([pattern.max().item(), *pattern[-15:].tolist()], abs=6e-4)
    page.get_by_role("button", name=f"All {query + 1} keys").click()
    assert [number(share) for share in texts(page, "[data-share]")] == pytest.approx(pattern.tolist(), abs=6e-4)


def test_surprise_and_head_and_lens_and_why_show_the_inspection_s_figures(visit: Callable, served: ServedModel) -> None:
    looked = run(served.model, served.tokenizer, TEXT)
    page = visit().go(place("surprise"))
    assert number(page.locator("[data-nats]").inner_text()) == pytest.approx(looked.loss, abs=6e-5)

    page = visit().go(place("head", layer=1, head=1, at=5))
    steps = looked.head(1, 1, 5)
    shown = [number(text) for text in texts(page, "[data-share]")]
    assert shown == pytest.approx(steps.pattern.tolist(), abs=6e-4)
    shown = [number(text) for text in texts(page, "[data-score]")]
    assert shown == pytest.approx(steps.scores.tolist(), abs=6e-3)
    assert page.locator("[data-check]").inner_text().endswith(str(steps.check))

    page = visit().go(place("heads", layer=1, head=0, at=6))
    page.locator("[data-matrix]").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert number(page.locator("[data-cell]").inner_text()) == pytest.approx(
        float(looked.attention(1, 0).pattern[6, 1]), abs=6e-4
    )

    page = visit().go(place("layers", at=3))
    lens = looked.logit_lens(1)
    cells = texts(page, "tbody tr[aria-rowindex='5'] td .value")  # the first is the heads of the columns
    assert [number(cell) for cell in cells] == pytest.approx(
        [percent(p) for p in lens.top_probabilities[:, 3, 0].tolist()], rel=6e-3
    )

    page = visit().go(place("why", unit="head", at=5))
    why = looked.dla(unit="head", position=5)
    assert number(page.locator("[data-total]").inner_text()) == pytest.approx(why.logit, abs=6e-3)
    shown = [number(text) for text in texts(page, "[data-value]")]
    assert shown == pytest.approx(why.values.tolist(), abs=6e-3)


def test_switches_and_words_show_the_inspection_s_figures(visit: Callable, served: ServedModel) -> None:
    page = visit().go(place("switches"))
    page.get_by_role("button", name="Head 0.1", exact=True).click()
    page.get_by_role("button", name="MLP of layer 1").press("Enter")
    until(page, "document.querySelectorAll('.switch[aria-pressed=false]').length === 2")
    until(page, "document.querySelector('[data-change]')?.textContent !== 'none'")
    parts = [ablate(head=(0, 1)), ablate(mlp=1)]
    mine = effect(served.model, served.tokenizer, TEXT, parts, Looker(served).texts())
    until(page, f"document.querySelector('[data-after]')?.textContent.trim() === '{mine.loss_after:.3f}'")
    assert number(page.locator("[data-change]").inner_text()) == pytest.approx(
        mine.loss_after - mine.loss_before, abs=6e-4
    )
    assert mine.continuation_after.strip() in page.locator("blockquote").nth(1).inner_text()

    page = visit().go("#words?word=+time")
    near = neighbours(served.model, served.tokenizer, " time")
    shown = [number(text) for text in texts(page, ".bars .value")]
    assert shown == pytest.approx(near.cosines.tolist(), abs=6e-4)


def test_writing_streams_agrees_with_the_inspection_and_branches(visit: Callable) -> None:
    page = visit().go(place("write", n=20, t=1))
    page.get_by_role("button", name="Write", exact=True).click()
    page.get_by_role("button", name="Write on").wait_for()
    until(page, "document.querySelector('[data-check]')?.textContent.includes('what the stream said')")
    assert "✓" in page.locator("[data-check]").inner_text()
    written = page.locator("[role=listbox]").inner_text()
    assert len(written) > len(TEXT)
    # A token of the prompt, then an alternative: the text goes another way from there.
    page.get_by_role("option").nth(4).click()
    page.locator("h2", has_text="Instead of").wait_for()
    other = page.locator(".bars button").filter(has_not=page.locator(".marked")).nth(1)
    before = "".join(page.get_by_role("option").all_inner_texts()[:4])
    other.click()
    until(page, f"document.querySelector('[role=listbox]').innerText !== {json.dumps(written)}")
    page.get_by_role("button", name="Write on").wait_for()
    after = page.locator("[role=listbox]").inner_text()
    assert after.startswith(before)
    assert after != written


def test_the_time_machine_moves_every_view(visit: Callable, served: ServedModel) -> None:
    page = visit().go(place("surprise"))
    finished = page.locator("[data-nats]").inner_text()
    slider = page.locator("[data-scrubber]")
    slider.press("Home")
    until(page, f"document.querySelector('[data-nats]').textContent !== '{finished}'")
    first = run(Looker(served).model(0), served.tokenizer, TEXT)
    assert number(page.locator("[data-nats]").inner_text()) == pytest.approx(first.loss, abs=6e-5)
    until(page, "location.hash.includes('step=0')")
    page.get_by_role("link", name="Time machine").click()
    page.locator("[data-bits]").wait_for()
    assert float(page.locator("[data-bits]").get_attribute("data-bits") or 0) == pytest.approx(first.loss, rel=1e-5)
    slider.press("End")
    until(page, "!location.hash.includes('step=0')")


def test_live_shows_the_record_of_the_run(visit: Callable, served: ServedModel) -> None:
    record = history(served.folder)
    page = visit().go(place("live"))
    last = record["last"]
    assert number(page.locator("[data-step]").inner_text()) == last["step"] > 0
    assert number(page.locator("[data-speed]").inner_text()) == round(last["tokens_per_second"])
    assert number(page.locator("[data-valid]").inner_text()) == pytest.approx(record["valid"][-1]["loss"], abs=6e-4)
    assert page.locator("[data-sample]").inner_text().split() == record["samples"][-1]["text"].split()


def test_nothing_moves_for_those_who_ask_for_less_motion(visit: Callable) -> None:
    moving = """[...document.querySelectorAll('*')].filter((e) => {
        const style = getComputedStyle(e);
        return style.animationName !== 'none' || style.transitionDuration.split(', ').some((t) => t !== '0s'); }).length"""
    still, usual = visit(), visit(reduced_motion="no-preference")
    for view in VIEWS:
        assert still.go(place(view)).evaluate(moving) == 0, view
    assert usual.go(place("switches")).evaluate(moving) > 0


def test_the_address_holds_the_state(visit: Callable) -> None:
    first = visit()
    page = first.go(place("odds", t=0.35, k=7, at=3))
    page.get_by_role("slider", name="Top-k").press("ArrowRight")
    until(page, "location.hash.includes('k=8')")
    again = visit().go(page.evaluate("location.hash"))
    assert again.get_by_role("slider", name="Top-k").input_value() == "8"
    assert again.locator(".bars").inner_text() == page.locator(".bars").inner_text()
    assert page.get_by_role("option", selected=True).count() == 1


def test_what_a_link_from_another_model_asks_for_is_exchanged_and_said(visit: Callable) -> None:
    page = visit().go(place("head", layer=9, head=1, step=99, off="0.1,7.0,mlp.3"))
    assert page.locator("[role=alert]").count() == 0
    told = page.locator("[data-note]").inner_text()
    assert "no head 9.1, but 2 layers of 2 heads" in told
    assert "Head 1.1 is shown" in told
    assert "Of step 99 no weights were kept" in told
    assert "no 7.0, mlp.3 to turn off" in told
    assert page.locator("main select").evaluate_all("all => all.map((e) => e.value)") == ["1", "1"]
    assert page.locator("[data-share]").count() > 0
    until(page, "location.hash.includes('layer=1&head=1&off=0.1')")
    page.get_by_role("button", name="Close").click()
    assert page.locator("[data-note]").count() == 0


def test_the_chosen_token_s_row_is_in_sight(visit: Callable) -> None:
    page = visit().go(f"#layers?{urlencode({'text': 'One day a dog ran to the big tree. ' * 4})}")
    rows = page.locator("[role=option]").count()
    assert rows > 25
    assert page.locator("table").get_attribute("aria-rowcount") == str(rows + 1)
    assert page.locator("tr.now").get_attribute("aria-rowindex") == str(rows + 1)
    assert page.locator("tbody tr").count() < rows
    inside = """() => { const row = document.querySelector('tr.now').getBoundingClientRect();
        const box = document.querySelector('.box').getBoundingClientRect(); return row.top >= box.top && row.bottom <= box.bottom; }"""
    assert page.evaluate(inside)
    page.get_by_role("option").nth(2).click()
    until(page, "document.querySelector('tr.now')?.getAttribute('aria-rowindex') === '4'")
    until(page, f"({inside})()")
    # Rows that are scrolled to are there.
    page.evaluate("document.querySelector('.box').scrollTop = 1e6")
    until(page, f"document.querySelector('tbody tr:last-child').getAttribute('aria-rowindex') === '{rows + 1}'")
    last = page.locator("tbody tr:last-child").inner_text().split()[0]
    assert page.get_by_role("option").last.inner_text().strip() == last.strip("␣")


def test_the_map_of_words_is_used_by_keyboard_and_pointer(visit: Callable, served: ServedModel) -> None:
    page = visit().go("#words?word=+time")
    view = embedding_map(served.model, served.tokenizer, count=200)
    field = page.locator("[data-map]")
    assert f"Map of {len(view.tokens)} frequent words" in (field.get_attribute("aria-label") or "")
    field.focus()
    told = page.locator("[data-pointed]")
    assert told.inner_text() == "time"
    page.keyboard.press("ArrowRight")
    until(page, "document.querySelector('[data-pointed]').textContent !== 'time'")
    word = told.inner_text()
    assert word in [token.replace("␣", "") for token in view.tokens]
    places = {token.replace("␣", ""): place[0] for token, place in zip(view.tokens, view.places.tolist(), strict=True)}
    assert places[word] > places["time"]
    page.keyboard.press("Enter")
    until(page, f"document.querySelector('.two h2').textContent.endsWith({json.dumps(word)})")
    # The dot beside a written name takes a press as well.
    box = field.bounding_box()
    name = page.locator("[data-map] text").first
    beside = name.get_attribute("text-anchor") == "end"
    x, y = (float(name.get_attribute(side) or 0) for side in ("x", "y"))
    assert box is not None
    page.mouse.click(box["x"] + x + (6 if beside else -6), box["y"] + y - 4)
    until(page, f"document.querySelector('.two h2').textContent.endsWith({json.dumps(name.text_content())})")


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_no_view_has_an_accessibility_fault(visit: Callable, colours: str) -> None:
    item = visit(color_scheme=colours)
    for view in VIEWS:
        page = item.go(place(view, off="0.1") if view == "switches" else place(view))
        found = Axe().run(page).response["violations"]
        serious = [f for f in found if f["impact"] in ("serious", "critical")]
        told = [(f["id"], [node["html"][:160] for node in f["nodes"][:3]]) for f in serious]
        assert not told, (view, told)
        assert len(re.findall(r"[.!?](?:\s|$)", page.locator(".says").text_content() or "")) == 3, view
        assert page.locator("[data-check]").count() == 1, view


@pytest.mark.parametrize("colours", ["light"])
def test_a_phone_needs_no_sideways_scroll(visit: Callable, colours: str) -> None:
    item = visit(viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True, color_scheme=colours)
    for view in VIEWS:
        page = item.go(place(view))
        over = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert over <= 0, view
        small = page.evaluate(
            "[...document.querySelectorAll('main button, main select, nav a')]"
            ".filter((e) => e.offsetParent && e.getBoundingClientRect().height < 24)"
            ".map((e) => e.outerHTML.slice(0, 90))"
        )
        assert not small, (view, small)


def test_every_view_is_reached_and_used_by_keyboard(visit: Callable) -> None:
    """Tab reaches each control; the view is opened with Enter; tokens and maps answer arrow keys."""
    item = visit()
    page = item.go(place("write"))
    for view in VIEWS:
        page.locator(f'nav a[href="#{view}"]').focus()
        page.keyboard.press("Enter")
        item.settle()
        assert page.evaluate("document.activeElement.id") == "title", view
        wanted = page.evaluate(
            "[...document.querySelectorAll('main button, main select, main input, main summary, main [tabindex=\"0\"]')]"
            ".filter((e) => e.checkVisibility() && !e.disabled && !e.closest('details:not([open]) > :not(summary)')"
            " && !(e.type === 'radio' && !e.checked)).map((e, i) => (e.dataset.wanted = i)).length"
        )
        for _ in range(3 * wanted + 5):
            page.keyboard.press("Tab")
            page.evaluate("document.activeElement.dataset.reached = 1")
            if page.evaluate("document.activeElement.closest('main') === null"):
                break
        missed = page.evaluate(
            "[...document.querySelectorAll('main [data-wanted]:not([data-reached])')].map((e) => e.outerHTML.slice(0, 120))"
        )
        assert not missed, (view, missed)
        if page.locator("[role=listbox]").count():
            page.locator("[role=listbox] [tabindex='0']").focus()
            page.keyboard.press("ArrowLeft")
            until(page, "document.querySelector('[role=option][aria-selected=true]') === document.activeElement")
            page.keyboard.press("Escape")


def test_text_never_becomes_markup(visit: Callable) -> None:
    for view in VIEWS[:-1]:
        item = visit()
        item.refusals = True  # this is no single token
        page = item.go(f"#{view}?{urlencode({'text': HOSTILE, 'word': HOSTILE[2:30], 'against': HOSTILE})}")
        assert page.evaluate("window.hit") is None
        assert page.locator("main img, main script").count() == 0
        if view != "words":
            assert "onerror=window.hit=1>" in page.locator("[role=listbox]").inner_text()


@pytest.mark.parametrize("view", ["odds", "surprise", "head", "why", "layers", "switches", "words", "heads"])
def test_the_python_beside_a_view_runs(visit: Callable, view: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    page = visit().go(place(view, step=0, word=" time"))
    code = page.locator("[data-python]").text_content()
    assert code
    monkeypatch.chdir(tmp_path)
    exec(compile(code, view, "exec"), {})
    told = capsys.readouterr().out
    shown = page.locator("[data-check]").inner_text()
    assert "check:" in told
    if view == "surprise":
        assert page.locator("figcaption").first.inner_text() in told
    if view in ("head", "why", "layers", "heads"):
        assert shown.removeprefix("✓").strip().split(": ")[0] in told


def test_a_saved_page_opens_without_a_server(visit: Callable, browser: object, tmp_path: Path) -> None:
    item = visit()
    page = item.go(place("surprise"))
    loss = page.locator("[data-nats]").inner_text()
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Save as file").click()
    path = tmp_path / "saved.html"
    waiting.value.save_as(path)
    context = item.page.context.browser.new_context(offline=True)
    alone, errors = context.new_page(), []
    alone.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    alone.on("pageerror", lambda error: errors.append(str(error)))
    alone.goto(f"{path.as_uri()}{place('surprise')}")
    assert alone.locator("[data-nats]").inner_text() == loss
    for view in ("odds", "heads", "head", "layers", "why", "words", "live"):
        alone.locator(f'nav a[href="#{view}"]').click()
        alone.wait_for_timeout(150)
        assert alone.locator("[role=alert]").count() == 0, (view, alone.locator("[role=alert]").all_inner_texts())
        assert alone.locator("[data-check]").count() == 1, view
    context.close()
    assert errors == []
