"""Every view's SVG in a real Chromium: no text is cut off, none covers another."""

from collections.abc import Callable
from itertools import combinations
from typing import TYPE_CHECKING, Any

import pytest
import torch

from gpt2 import GPT2, load
from gpt2.checkpoint.snapshots import save_snapshot
from gpt2.data import iter_documents
from gpt2.inspection.result import Result
from gpt2.inspection.views import VIEWS, Question, view

if TYPE_CHECKING:
    from playwright.sync_api import Browser

TEXT = (
    "Once upon a time there was a little girl named Lily. She loved to play with her dog in the park. One day, the dog"
)
GIRL, BOY = (f"Once upon a time there was a little {who}. One day," for who in ("girl", "boy"))
GIVEN = {
    "patch": {"text": GIRL, "corrupt": BOY, "target": " she", "against": " he"},
    "neighbours": {"target": " dog"},
}
MORE = {
    "one head": ("attention", {"layer": 1, "head": 2}),
    "all heads but the first token": ("attention", {"hide_first": True}),
    "heads' shares": ("attribution", {"unit": "head", "target": " ran", "against": " was"}),
    "neurons' shares": ("attribution", {"unit": "neuron"}),
    "patched heads": ("patch", {"unit": "head"}),
    "a short lens": ("lens", {"text": "Hi"}),
    "a short text's heads": ("attention", {"text": "Hi"}),
    "a film of one head": ("timeline", {"measure": "attention"}),
    "lengths over time": ("timeline", {"measure": "residual"}),
    "surprise over time": ("timeline", {"measure": "surprise"}),
}
BOXES = """
() => {
    const frame = document.querySelector("svg").getBoundingClientRect();
    const boxes = [...document.querySelectorAll("svg text")].filter((text) => text.textContent.trim()).map((text) => {
        const { left, top, right, bottom } = text.getBoundingClientRect();
        return [text.textContent.trim(), left - frame.left, top - frame.top, right - frame.left, bottom - frame.top];
    });
    return { width: frame.width, height: frame.height, boxes };
}
"""
Box = tuple[str, float, float, float, float]


@pytest.fixture(scope="module")
def draw(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Result]:
    """A view of the shipped model, by its name; for timelines, of a run that became it in five snapshots."""
    (model, tokenizer), folder = load("demo"), tmp_path_factory.mktemp("run")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    fresh = GPT2(model.config, generator=torch.Generator().manual_seed(0)).state_dict()
    for share, step in enumerate((0, 10, 100, 1000, 10_000)):
        now = GPT2(model.config)
        now.load_state_dict({name: fresh[name].lerp(value, share / 4) for name, value in model.state_dict().items()})
        save_snapshot(folder / "training/snapshots", now, step, 2048 * step)
    texts = [story for _, story in zip(range(3), iter_documents(), strict=False)]

    def look(name: str, **options: Any) -> Result:
        given = {"text": TEXT, "texts": texts, "folder": str(folder), **GIVEN.get(name, {}), **options}
        return view(name, Question(model, tokenizer, **given))

    return look


def inked(box: Box) -> tuple[float, float, float, float]:
    """Without the room above and below that a font leaves to its letters."""
    _, left, top, right, bottom = box
    across, down = (0.0, 0.2 * (bottom - top)) if right - left > bottom - top else (0.2 * (right - left), 0.0)
    return left + across, top + down, right - across, bottom - down


def cover(one: Box, other: Box) -> bool:
    """Whether two texts share more than a pixel's width and height."""
    (left, top, right, bottom), (left2, top2, right2, bottom2) = inked(one), inked(other)
    return min(right, right2) - max(left, left2) > 1 and min(bottom, bottom2) - max(top, top2) > 1


def misplaced(browser: "Browser", svg: str) -> tuple[list[Box], list[str], list[tuple[str, str]]]:
    """All texts of a picture; those that are cut off; the pairs that cover each other."""
    page = browser.new_page(viewport={"width": 1600, "height": 1200})
    page.set_content(f"<body style='margin: 0'>{svg}</body>")
    found = page.evaluate(BOXES)
    page.close()
    boxes: list[Box] = found["boxes"]
    width, height = found["width"], found["height"]
    outside = [box[0] for box in boxes if min(box[1:3]) < 0 or box[3] > width or box[4] > height]
    return boxes, outside, [(one[0], other[0]) for one, other in combinations(boxes, 2) if cover(one, other)]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*VIEWS, *MORE])
def test_every_text_is_whole_and_stands_alone(name: str, draw: Callable[..., Result], browser: "Browser") -> None:
    kind, options = MORE.get(name, (name, {}))
    boxes, outside, pairs = misplaced(browser, draw(kind, **options).svg())
    assert len(boxes) > 3
    assert not outside
    assert not pairs


def test_a_text_that_is_cut_off_or_covered_would_be_noticed(browser: "Browser") -> None:
    texts = ((5, 20, "one"), (10, 22, "other"), (90, 20, "beyond"))
    drawn = "".join(f'<text x="{x}" y="{y}">{text}</text>' for x, y, text in texts)
    _, outside, pairs = misplaced(browser, f'<svg width="100" height="40">{drawn}</svg>')
    assert outside == ["beyond"]
    assert pairs == [("one", "other")]
