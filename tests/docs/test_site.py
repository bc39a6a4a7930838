"""The documentation's site: it builds without a warning, asks nobody for anything, and shows what is really there."""

import importlib.util
import os
import re
import subprocess
import sys
from html import unescape
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from gpt2.cli import COMMANDS

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# What is wider than its place: whatever cuts it off or scrolls sideways, by name.
TOO_WIDE = """
() => [...document.querySelectorAll("body *")].filter((part) =>
    part.clientWidth > 0 && part.scrollWidth > part.clientWidth + 1 && getComputedStyle(part).overflowX === "auto"
).map((part) => `${part.tagName} ${part.className}`.trim().toLowerCase())
"""
MAY_SCROLL = {"code", "div md-typeset__scrollwrap", "figure picture", "div formula"}
ROOT = Path(__file__).resolve().parents[2]


def hook(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_hook_{name}", ROOT / "docs" / "hooks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder / "site")],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "site"


@pytest.mark.slow
def test_nothing_is_loaded_from_elsewhere_and_every_link_leads_somewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe)[^>]* src=\"([^\"]+)\"", text)
        loaded += re.findall(r"<link[^>]* rel=\"(?:stylesheet|preconnect|preload)\"[^>]* href=\"([^\"]+)\"", text)
        loaded += re.findall(r"<link[^>]* href=\"([^\"]+)\"[^>]* rel=\"(?:stylesheet|preconnect|preload)\"", text)
        assert loaded
        for target in loaded:
            assert not target.startswith(("http:", "https:", "//")), f"{page.name} loads {target}"
        if page.name == "404.html":  # its links begin at the site's root
            continue
        for target in {*loaded, *re.findall(r"<a[^>]* href=\"([^\"#]+)", text)}:
            if not target.startswith(("http:", "https:", "mailto:")):
                file = (page.parent / unescape(target).split("#")[0].split("?")[0]).resolve()
                assert file.exists(), f"{page.name} leads to {target}"


@pytest.mark.slow
def test_the_annotated_model_shows_its_source_formulas_and_pictures(site: Path) -> None:
    page = (site / "model.html").read_text(encoding="utf-8")
    text = unescape(re.sub(r"<[^>]+>", "", page))
    extent = hook("source").extent
    source = (ROOT / "src/gpt2/model/ops/reference.py").read_text(encoding="utf-8")
    first, last = extent(source, "attention")
    for line in source.splitlines()[first - 1 : last]:
        assert line.strip() in text
    assert page.count("<math ") >= 8
    assert "arithmatex" not in page
    marks = (ROOT / "docs/model.md").read_text(encoding="utf-8").count("<!-- picture -->")
    pictures = re.findall(r'<img[^>]* src="(pictures/[^"#]+)#only-(light|dark)"[^>]*alt="([^"]+)"', page)
    pictures += re.findall(r'<img[^>]*alt="[^"]+"[^>]* src="(pictures/[^"#]+)#only-(light|dark)"()', page)
    assert len(pictures) == 2 * marks
    assert all((site / name).read_text(encoding="utf-8").startswith("<svg") for name, *_ in pictures)


@pytest.mark.slow
def test_the_reference_has_the_commands_and_the_docstrings(site: Path) -> None:
    commands = (site / "reference/commands.html").read_text(encoding="utf-8")
    for name in COMMANDS:
        assert f"usage: gpt2 {name}" in unescape(re.sub(r"<[^>]+>", "", commands)), name
    model = unescape(re.sub(r"<[^>]+>", "", (site / "reference/model.html").read_text(encoding="utf-8")))
    assert "Once the context is full, the last half of it is kept" in re.sub(r"\s+", " ", model)


@pytest.mark.slow
def test_on_a_phone_tables_and_code_scroll_and_the_page_does_not(site: Path, browser: "Browser") -> None:
    page = browser.new_page(viewport={"width": 360, "height": 740})
    scrolling = set()
    for file in sorted(site.rglob("*.html")):
        page.goto(file.as_uri())
        assert page.evaluate("document.scrollingElement.scrollWidth") == 360, file.name
        scrolling |= set(page.evaluate(TOO_WIDE))
    page.close()
    assert {"code", "div md-typeset__scrollwrap"} <= scrolling <= MAY_SCROLL


def test_a_definition_that_is_gone_stops_the_build() -> None:
    from mkdocs.exceptions import PluginError

    source = hook("source")
    assert source.extent(
        "x = 1\n\n@cache\ndef f():\n    return 1\n\nclass A:\n    def f(self):\n        pass\n", "f"
    ) == (3, 5)
    assert source.extent("class A:\n    b: int = 1\n    def f(self):\n        pass\n", "A.f") == (3, 4)
    with pytest.raises(PluginError, match="has no g"):
        source.extent("def f(): ...", "g")
    with pytest.raises(PluginError, match=r"reference\.py has no nothing"):
        source.on_page_markdown("[x](../src/gpt2/model/ops/reference.py#nothing)")
    inline = "see [x](../src/gpt2/model/ops/reference.py#gelu) there"
    assert source.on_page_markdown(inline) == inline


def test_formulas_become_mathml() -> None:
    made = hook("mathematics").on_page_content('<p><span class="arithmatex">\\(a_1 &lt; \\sqrt{b}\\)</span></p>')
    assert "<msqrt>" in made
    assert "<msub>" in made
    assert "&#x0003C;" in made
    assert "arithmatex" not in made
