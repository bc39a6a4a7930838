"""Pictures that the build makes itself, by running a page's own Python.

In a page with the line `<!-- picture -->`, every block of Python is run, in order. The line stands below the block
whose last expression is a result of `gpt2.inspection`, and becomes its picture, for light pages and for dark ones.
"""

import ast
import html
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_MARK = "<!-- picture -->"
_PARTS = re.compile(rf"^```python\n(?P<code>.*?)^```$|^{re.escape(_MARK)}$", re.DOTALL | re.MULTILINE)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with its pictures."""
    if _MARK not in markdown:
        return markdown
    names: dict[str, Any] = {}
    last: Any = None
    number = 0

    def replace(found: re.Match[str]) -> str:
        nonlocal last, number
        if found["code"] is not None:
            last = _value(found["code"], names, page.file.src_uri)
            return found[0]
        if not hasattr(last, "svg"):
            raise PluginError(f"{page.file.src_uri}: no result to draw above {_MARK}, but {last!r}")
        if last.check is not None and not last.check.ok:
            raise PluginError(f"{page.file.src_uri}: a picture's check fails: {last.check}")
        number += 1
        stem = f"pictures/{Path(page.file.src_uri).stem}-{number}"
        for theme in ("light", "dark"):
            files.append(File.generated(config, f"{stem}-{theme}.svg", content=last.svg(theme)))
        return _figure(stem, f"{last.title}. {last.summary}", page)

    with _models():
        return _PARTS.sub(replace, markdown)


def _value(code: str, names: dict[str, Any], where: str) -> Any:
    """Run a block; the value of its last expression."""
    tree = ast.parse(code, where)
    ends = tree.body[-1]
    with redirect_stdout(StringIO()):
        if not isinstance(ends, ast.Expr):
            exec(compile(tree, where, "exec"), names)
            return None
        exec(compile(ast.Module(tree.body[:-1], []), where, "exec"), names)
        return eval(compile(ast.Expression(ends.value), where, "eval"), names)


def _figure(stem: str, text: str, page: Page) -> str:
    up = "../" * page.file.src_uri.count("/")
    images = [
        f'<img src="{up}{stem}-{theme}.svg#only-{theme}" alt="{html.escape(text)}" loading="lazy">'
        for theme in ("light", "dark")
    ]
    return f'<figure class="picture" tabindex="0">{"".join(images)}</figure>'  # it scrolls: by keys too


@contextmanager
def _models() -> Iterator[None]:
    """A folder to work in, with the shipped model as models/demo, where examples expect one of the reader's own."""
    from gpt2 import load

    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        model, tokenizer = load("demo")
        model.save_pretrained(Path(folder) / "models/demo")
        tokenizer.save_pretrained(Path(folder) / "models/demo")
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)
