"""What pages link to outside docs/, such as an example, goes into the site; the links are turned there."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_ROOT = Path(__file__).resolve().parents[2]
_LINK = re.compile(r"\]\(\.\./((?!src/)[\w./-]+)\)")


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with links into the site."""
    if "/" in page.file.src_uri:  # "../" of a page in a folder does not lead outside
        return markdown

    def turn(found: re.Match[str]) -> str:
        inside = f"repository/{found[1]}"
        if files.get_file_from_path(inside) is None:
            files.append(File.generated(config, inside, abs_src_path=str(_ROOT / found[1])))
        return f"]({inside})"

    return _LINK.sub(turn, markdown)
