"""Pictures as bytes: the same for the same numbers, with a description for those who do not see them."""

import io
import re
import warnings
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

import matplotlib

from gpt2.inspection.drawing.canvas import alternative_text, picture
from gpt2.inspection.drawing.style import Theme

if TYPE_CHECKING:
    from gpt2.inspection.result import Result


def to_svg(result: "Result", theme: Theme) -> str:
    """SVG with real text, `<title>`, `<desc>`, no date, and ids that depend on the drawing alone."""
    text = _render(result, theme, "svg", 72, {"Date": None, "Creator": None}).decode()
    text = text[text.index("<svg") :]
    labels = f"<title>{escape(result.title)}</title>\n<desc>{escape(result.summary)}</desc>"
    text = re.sub(r"\n? *<metadata>.*?</metadata>", "", text, count=1, flags=re.DOTALL)
    # Points are absolute; with a viewBox the picture fits any column.
    text = re.sub(r"<svg\b", '<svg role="img" style="max-width:100%;height:auto"', text, count=1)
    return re.sub(r"(<svg\b[^>]*>)", lambda m: f"{m[1]}\n{labels}", text, count=1)


def to_png(result: "Result", theme: Theme, dpi: int) -> bytes:
    """PNG without the program's version; its Description is the alternative text."""
    return _render(result, theme, "png", dpi, {"Software": None, "Description": alternative_text(result)})


def _render(result: "Result", theme: Theme, kind: str, dpi: int, metadata: dict[str, str | None]) -> bytes:
    figure = picture(result, theme)
    with io.BytesIO() as file, matplotlib.rc_context(theme.settings()), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*")
        figure.savefig(file, format=kind, dpi=dpi, metadata=metadata)
        return file.getvalue()
