"""Formulas as MathML, which browsers draw themselves: no script, no fonts, nothing to fetch."""

import html
import re
from typing import Any

from latex2mathml.converter import convert

# What pymdownx.arithmatex (generic) leaves: \( \) in a span, \[ \] in a div.
_INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
_BLOCK = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    """Each formula of a page, converted."""
    content = _INLINE.sub(lambda found: convert(html.unescape(found[1])), content)
    return _BLOCK.sub(lambda found: _wide(convert(html.unescape(found[1]), display="block")), content)


def _wide(formula: str) -> str:
    """In a box of its own, which scrolls on a narrow screen."""
    return f'<div class="formula">{formula}</div>'
