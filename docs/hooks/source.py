"""The project's own source in a page: read from src/ at each build, never copied.

A line that is nothing but a link to a definition, `[name](../src/gpt2/file.py#name)`, becomes that definition's code.
Elsewhere the line stays what it is, a link to the file.
"""

import ast
import re
import textwrap
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

_ROOT = Path(__file__).resolve().parents[2]
_LINK = re.compile(r"^\[[^\]]+\]\(\.\./(src/gpt2/[\w/]+\.py)#([\w.]+)\)$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with the code in it."""
    return _LINK.sub(lambda found: _fence(found[1], found[2]), markdown)


def _fence(file: str, name: str) -> str:
    lines = (_ROOT / file).read_text(encoding="utf-8").splitlines()
    first, last = extent("\n".join(lines), name, file)
    code = textwrap.dedent("\n".join(lines[first - 1 : last]))
    return f'``` {{ .python title="{file}, line {first}" linenums="{first}" }}\n{code}\n```'


def extent(source: str, name: str, file: str = "source") -> tuple[int, int]:
    """First and last line of a definition: a function, a class, `Class.method`, or a name that is assigned to.

    Raises:
        PluginError: there is none of this name, so a page shows what is no longer there.
    """
    body: list[ast.stmt] = ast.parse(source).body
    found: ast.stmt | None = None
    for part in name.split("."):
        found = next((node for node in body if part in _names(node)), None)
        if found is None:
            raise PluginError(f"{file} has no {name}; a page of the documentation shows it")
        body = getattr(found, "body", [])
    assert found is not None
    decorators = getattr(found, "decorator_list", [])
    return min([found.lineno, *(node.lineno for node in decorators)]), found.end_lineno or found.lineno


def _names(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    return [node.name] if isinstance(node, (ast.FunctionDef, ast.ClassDef)) else []
