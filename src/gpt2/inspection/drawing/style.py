"""Colours and type of every picture, for light and dark pages and for paper.

The colour maps run from the page's colour (nothing) to the strongest contrast, with lightness that changes
steadily, so they read without colour vision and in a copy; signed ones have the page's colour at zero and
part into blue and orange, which every kind of colour vision tells apart.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpt2.errors import ConfigError, nearest

if TYPE_CHECKING:
    from matplotlib.colors import Colormap


@dataclass(frozen=True)
class Theme:
    """One set of colours, as hexadecimal RGB."""

    name: str
    paper: str
    ink: str
    muted: str
    grid: str
    hidden: str
    """What cannot be, such as attention to the future."""
    accent: str
    second: str
    sequential: tuple[str, ...]
    negative: tuple[str, ...]
    """From zero outwards."""
    positive: tuple[str, ...]
    lines: tuple[str, ...]

    def ramp(self) -> "Colormap":
        """Colour map for 0 to 1 or more: the page's colour at nothing."""
        return _colormap(f"{self.name}-ramp", self.sequential)

    def signed(self) -> "Colormap":
        """Colour map with the page's colour at zero; orange below, blue above."""
        return _colormap(f"{self.name}-signed", (*reversed(self.negative), self.paper, *self.positive))

    def settings(self) -> Any:
        """matplotlib's settings for a picture of this theme."""
        return {
            "svg.fonttype": "none", "svg.hashsalt": "gpt2", "text.parse_math": False,
            "font.family": "sans-serif",
            "font.sans-serif": ["DejaVu Sans", "Verdana", "Segoe UI", "Helvetica Neue", "Arial", "sans-serif"],
            "font.size": 8.5, "axes.titlesize": 9, "axes.labelsize": 8.5, "xtick.labelsize": 8, "ytick.labelsize": 8,
            "figure.facecolor": self.paper, "axes.facecolor": self.paper, "savefig.facecolor": self.paper,
            "text.color": self.ink, "axes.labelcolor": self.muted, "axes.titlecolor": self.ink,
            "xtick.color": self.grid, "ytick.color": self.grid, "xtick.labelcolor": self.ink,
            "ytick.labelcolor": self.ink, "axes.edgecolor": self.grid, "grid.color": self.grid,
            "grid.linewidth": 0.6, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
            "xtick.major.size": 3, "ytick.major.size": 3, "legend.frameon": False, "axes.unicode_minus": True,
        }  # fmt: skip


def _colormap(name: str, colours: tuple[str, ...]) -> "Colormap":
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list(name, colours)


LIGHT = Theme(
    "light", paper="#ffffff", ink="#1b2733", muted="#56636f", grid="#c9d1d9", hidden="#f1f3f5",
    accent="#1f5fa8", second="#b35900",
    sequential=("#ffffff", "#d5e4f3", "#9cc0e3", "#5b96cc", "#2a6bac", "#124680", "#0a2a52"),
    negative=("#fbdcb8", "#f0ab63", "#cf7a22", "#8f4a06", "#572a00"),
    positive=("#d5e4f3", "#9cc0e3", "#5b96cc", "#2a6bac", "#124680"),
    lines=("#1f5fa8", "#b35900", "#2e7d4f", "#8d4a9e", "#5f6b76", "#a8324a"),
)  # fmt: skip
DARK = Theme(
    "dark", paper="#14191f", ink="#e6ebf0", muted="#a3b0bc", grid="#3d4854", hidden="#1f262e",
    accent="#6db3f2", second="#f0a35e",
    sequential=("#14191f", "#1d3550", "#25567f", "#3a80b5", "#69abd9", "#a9d3f0", "#eef7fd"),
    negative=("#40291a", "#754622", "#b06c2b", "#e69c52", "#fbd3a6"),
    positive=("#1d3550", "#25567f", "#3a80b5", "#69abd9", "#b5daf3"),
    lines=("#6db3f2", "#f0a35e", "#7fcf9b", "#d59be3", "#a3b0bc", "#f28b9b"),
)  # fmt: skip
PRINT = Theme(
    "print", paper="#ffffff", ink="#000000", muted="#6b6b6b", grid="#999999", hidden="#eeeeee",
    accent="#124680", second="#cf7a22",  # what is said of them names these colours; in grey they are dark and middle
    sequential=("#ffffff", "#d9d9d9", "#a8a8a8", "#757575", "#454545", "#000000"),
    negative=("#fbdcb8", "#f0ab63", "#cf7a22", "#8f4a06", "#572a00"),
    positive=("#d5e4f3", "#9cc0e3", "#5b96cc", "#2a6bac", "#124680"),
    lines=("#000000", "#777777", "#444444", "#999999", "#222222", "#bbbbbb"),
)  # fmt: skip

THEMES = {theme.name: theme for theme in (LIGHT, DARK, PRINT)}


def theme_named(theme: str | Theme) -> Theme:
    """The theme of this name.

    Raises:
        ConfigError: there is none.
    """
    if isinstance(theme, Theme):
        return theme
    if theme not in THEMES:
        raise ConfigError(f"unknown theme {theme!r}.{nearest(theme, THEMES)} There are {', '.join(THEMES)}")
    return THEMES[theme]


def readable_on(colour: Any) -> str:
    """White on an RGB(A) colour of 0 to 1 where it has WCAG's contrast of 4.5, else black, which then has more.

    Where both would do, as on a middle blue, white reads more easily, though the formula hardly tells them apart.
    """
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3])
    return "#ffffff" if 1.05 / (0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05) >= 4.5 else "#000000"
