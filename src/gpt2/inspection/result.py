"""What every view gives: numbers, the identity that proves them, a picture, JSON, lines for a terminal."""

import dataclasses
import html
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from gpt2.errors import ConfigError
from gpt2.files import atomic_write
from gpt2.inspection.drawing.canvas import Canvas, alternative_text, picture
from gpt2.inspection.drawing.style import Theme, theme_named

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Check:
    """An identity that must hold, and by how much it fails to."""

    sentence: str
    """What is equal to what."""
    residual: float
    """Largest difference, in units of the largest value compared, or of 1 if that is larger."""
    tolerance: float = 1e-4

    @property
    def ok(self) -> bool:
        """Whether it holds; NaN does not."""
        return self.residual <= self.tolerance

    def __str__(self) -> str:
        off = "exactly" if self.residual == 0 else f"off by {self.residual:.1e}"
        return f"{self.sentence}: {'holds' if self.ok else 'DOES NOT HOLD'}, {off}"


def difference(found: Tensor, expected: Tensor) -> float:
    """max |found - expected| in units of max |expected|, or of 1 if that is larger."""
    if found.numel() == 0:
        return 0.0
    scale = max(1.0, float(expected.abs().max()))
    return float((found.double() - expected.double()).abs().max()) / scale


class Result:
    """Base of every view. A view is a frozen dataclass; its fields become its JSON.

    Subclasses give `title` and `summary` (properties), `rows` for the terminal, `_draw` for the picture.
    """

    kind: ClassVar[str] = "result"
    not_json: ClassVar[tuple[str, ...]] = ()
    """Fields that are left out of the JSON."""
    check: Check | None = None

    @property
    def title(self) -> str:
        """What is shown, in a few words."""
        raise NotImplementedError

    @property
    def summary(self) -> str:
        """One sentence with what there is to see; also the alternative text of the picture."""
        raise NotImplementedError

    @property
    def how_to_read(self) -> str:
        """A line under the title: what axes and colours mean."""
        return ""

    def rows(self) -> list[list[str]]:
        """A table, header first, for the terminal."""
        raise NotImplementedError

    def _size(self) -> tuple[float, float]:
        """Width and height of the picture in inches, without title and check."""
        return 7.5, 3.6

    def _draw(self, canvas: Canvas) -> None:
        raise NotImplementedError

    def plot(self, theme: str | Theme = "light") -> "Figure":
        """Draw it.

        Args:
            theme: "light", "dark" or "print".

        Returns:
            A matplotlib `Figure` that belongs to no window.
        """
        return picture(self, theme_named(theme))

    def svg(self, theme: str | Theme = "light") -> str:
        """The picture as SVG: real text, the summary as alternative text, the same bytes each time."""
        from gpt2.inspection.drawing.files import to_svg

        return to_svg(self, theme_named(theme))

    def png(self, theme: str | Theme = "light", dpi: int = 160) -> bytes:
        """The picture as PNG, the same bytes each time; the summary is its Description."""
        from gpt2.inspection.drawing.files import to_png

        return to_png(self, theme_named(theme), dpi)

    def save(self, path: str | Path, theme: str | Theme = "light") -> Path:
        """Write the picture (.svg, .png) or the numbers (.json) by the name's ending.

        Raises:
            ConfigError: another ending.
            UserError: it cannot be written.
        """
        path = Path(path)
        kind = path.suffix.lower()
        if kind not in (".svg", ".png", ".json"):
            raise ConfigError(f"{path} must end in .svg, .png or .json")
        if kind == ".png":
            with atomic_write(path, "wb") as file:
                file.write(self.png(theme))
            return path
        text = self.svg(theme) if kind == ".svg" else json.dumps(self.to_json(), ensure_ascii=False) + "\n"
        with atomic_write(path) as file:
            file.write(text)
        return path

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values: kind, title, summary, check, and each field; what is not finite is null."""
        fields = {
            field.name: plain(getattr(self, field.name))
            for field in dataclasses.fields(self)  # pyright: ignore
            if field.name not in (*self.not_json, "check")
        }
        check = self.check and {**dataclasses.asdict(self.check), "ok": self.check.ok, "text": str(self.check)}
        return {"kind": self.kind, "title": self.title, "summary": self.summary, "check": plain(check), **fields}

    def __str__(self) -> str:
        lines = [self.title, self.summary, "", *table(self.rows())]
        return "\n".join([*lines, "", f"check: {self.check}"] if self.check else lines)

    def _repr_html_(self) -> str:
        caption = html.escape(alternative_text(self))
        style = "margin:0.5em 0;max-width:100%;overflow-x:auto"
        return f'<figure style="{style}" role="img" aria-label="{caption}">{self.svg()}</figure>'


def plain(value: Any) -> Any:
    """JSON values of tensors, dataclasses and containers; floats to 7 digits, NaN and infinities as None."""
    if isinstance(value, Tensor):
        return plain(value.detach().cpu().tolist())
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return value.to_json() if isinstance(value, Result) else plain(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (torch.dtype, torch.device, Path)):
        return str(value)
    return value


def table(rows: list[list[str]]) -> list[str]:
    """Rows as aligned lines: words left, numbers right."""
    if not rows:
        return []
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    numeric = [all(_is_number(row[i]) for row in rows[1:]) for i in range(len(widths))]
    columns = list(zip(widths, numeric, strict=True))
    return [
        "  ".join(cell.rjust(w) if right else cell.ljust(w) for cell, (w, right) in zip(row, columns, strict=True))
        .rstrip()
        for row in rows
    ]  # fmt: skip


def _is_number(cell: str) -> bool:
    return not cell.strip() or cell.strip().lstrip("+-−").replace(",", "").rstrip(" %").replace(".", "", 1).isdigit()
