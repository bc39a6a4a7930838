"""Pictures: real text, the same bytes each time, a description, colours that can be told apart."""

import re
import struct
import zlib
from xml.etree import ElementTree

import pytest

from gpt2 import GPT2, Tokenizer
from gpt2.errors import ConfigError
from gpt2.inspection import Run, dependency, patch_grid, position_similarity, run
from gpt2.inspection.drawing.style import THEMES, readable_on
from gpt2.inspection.patching import UNITS
from gpt2.inspection.result import Check, difference, table

SVG = "{http://www.w3.org/2000/svg}"


def luminance(colour: tuple[float, ...]) -> float:
    """WCAG 2's relative luminance."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    from matplotlib.colors import to_rgb

    low, high = sorted(luminance(to_rgb(c)) for c in (one, other))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", THEMES)
def test_svg_has_text_and_a_description_and_is_reproducible(looked: Run, theme: str) -> None:
    view = looked.attention(0, 1)
    svg = view.svg(theme)
    assert svg == view.svg(theme)
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img"
    assert root.findtext(f"{SVG}title") == view.title
    assert root.findtext(f"{SVG}desc") == view.summary
    texts = ["".join(node.itertext()).strip() for node in root.iter(f"{SVG}text")]
    assert "from ↓ (query)" in texts
    assert any(view.check is not None and view.check.sentence in text for text in texts)
    assert "␣upon" in texts or "␣u" in texts or any(text.startswith("␣") for text in texts)
    assert "Date" not in svg
    assert "date" not in re.sub(r"<desc>.*?</desc>", "", svg)


def test_png_is_reproducible_and_described(looked: Run) -> None:
    view = looked.residual_norms()
    data = view.png(dpi=60)
    assert data == view.png(dpi=60)
    chunks, at = {}, 8
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        chunks.setdefault(data[at + 4 : at + 8], data[at + 8 : at + 8 + size])
        at += size + 12
    text = chunks.get(b"tEXt") or chunks.get(b"iTXt") or b""
    if b"zTXt" in chunks:
        text = zlib.decompress(chunks[b"zTXt"].split(b"\0", 1)[1][1:])
    assert text.startswith(b"Description")
    assert view.title.split("“")[0].encode() in text
    assert b"atplotlib" not in data[:2000]


def test_tokens_cannot_break_a_picture(model: GPT2, tokenizer: Tokenizer) -> None:
    looked = run(model, tokenizer, "<img onerror=x> $a_b$ & \x00 猫 😀")
    for view in (looked.surprise(), looked.attention(0, 0), looked.logit_lens()):
        root = ElementTree.fromstring(view.svg())
        assert not list(root.iter("img"))
        assert "<img" not in view._repr_html_()
        assert view.png(dpi=40)


@pytest.mark.parametrize("theme", THEMES.values(), ids=THEMES)
def test_colours_are_readable(theme) -> None:
    from matplotlib.colors import to_hex

    for text in (theme.ink, theme.muted, theme.accent, theme.second):
        assert contrast(text, theme.paper) >= (3.0 if text == theme.second else 4.5), text
    ramp = [luminance(theme.ramp()(i / 50)) for i in range(51)]
    assert ramp == sorted(ramp, reverse=theme.paper == "#ffffff")  # lightness alone tells the order
    signed = [luminance(theme.signed()(i / 50)) for i in range(51)]
    middle = (max if theme.paper == "#ffffff" else min)(range(51), key=lambda i: signed[i])
    assert middle == 25
    for i in range(51):
        colour = theme.ramp()(i / 50)
        assert contrast(to_hex(colour), readable_on(colour)) >= 4.5


def test_unknown_themes_and_endings_are_refused(looked: Run, tmp_path) -> None:
    view = looked.residual_norms()
    with pytest.raises(ConfigError, match="Did you mean 'dark'"):
        view.svg("drak")
    with pytest.raises(ConfigError, match="must end in"):
        view.save(tmp_path / "x.jpeg")
    assert view.save(tmp_path / "new" / "x.json").exists()


def test_long_texts_and_many_heads_are_drawn(tokenizer: Tokenizer, model: GPT2) -> None:
    ids = list(range(1, 49))
    looked = run(model, tokenizer, ids)
    for view in (
        looked.attention(),
        looked.logit_lens(),
        looked.head(0, 0),
        looked.surprise(),
        position_similarity(model),
    ):
        assert len(view.svg()) < 400_000
    assert len(dependency(model, time=8).svg()) < 100_000


def test_a_check_says_whether_it_holds() -> None:
    assert str(Check("a = b", 0.0)) == "a = b: holds, exactly"
    assert not Check("a = b", 1e-3).ok
    assert not Check("a = b", float("nan")).ok
    assert "DOES NOT HOLD" in str(Check("a = b", 0.5))
    import torch

    assert difference(torch.tensor([1000.0]), torch.tensor([1000.1])) == pytest.approx(1e-4, rel=1e-2)
    assert table([["a", "n"], ["word", "1"], ["b", "10.5"]]) == ["a        n", "word     1", "b     10.5"]


def test_past_and_future_are_parted_by_a_line_in_every_pattern(looked: Run) -> None:
    """Faint attention has nearly the future's colour, above all in grey."""
    from matplotlib.collections import LineCollection

    atlas, time = looked.attention(), len(looked.tokens)
    heads = atlas.patterns.shape[0] * atlas.patterns.shape[1]
    for view, count in ((looked.attention(0, 1), 1), (atlas, heads)):
        axes = view.plot("print").axes[0]
        lines = [
            line for found in axes.collections if isinstance(found, LineCollection) for line in found.get_segments()
        ]
        slanted = [line for line in lines if line[0][0] != line[1][0] and line[0][1] != line[1][1]]
        assert len(slanted) == count
        assert slanted[0].tolist() == [[0.5, -0.5], [time - 0.5, time - 1.5]]


def test_patches_say_what_is_patched(model: GPT2, tokenizer: Tokenizer) -> None:
    ids = [5, 6, 7]
    clean, corrupt = (run(model, tokenizer, [*ids, last]) for last in (8, 9))
    said = {unit: patch_grid(clean, corrupt, 10, 11, unit=unit).how_to_read for unit in UNITS}
    assert len(set(said.values())) == len(UNITS) == 4
    assert "what a head adds" in said["head"]


def test_a_probability_ends_at_one(looked: Run) -> None:
    view = looked.odds(temperatures=(0.01,))
    ticks = view.plot().axes[0].get_xticks()
    assert max(ticks) <= 1.0
    assert len(ticks) > 2
