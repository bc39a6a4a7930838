"""Write GPT2.ipynb from its text, notebooks/GPT2.py, executed from top to bottom.

    python notebooks/build.py                 # execute and write GPT2.ipynb with its outputs
    GPT2_NOTEBOOK_SECONDS=10 python ...       # train for ten seconds only

Needs nbclient, nbformat and ipykernel.
"""

import re
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from gpt2 import native

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "notebooks" / "GPT2.py"
NOTEBOOK = ROOT / "GPT2.ipynb"

_CELL = re.compile(r"^# %%(?P<markdown> \[markdown\])?\n", re.MULTILINE)


def cells(text: str) -> list[tuple[str, str]]:
    """("markdown" or "code", source) of each cell of a text in the percent format."""
    marks = list(_CELL.finditer(text))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    found = []
    for mark, end in zip(marks, ends, strict=True):
        source = text[mark.end() : end].strip("\n")
        if mark["markdown"]:
            source = "\n".join(line.removeprefix("#").removeprefix(" ") for line in source.split("\n"))
        found.append(("markdown" if mark["markdown"] else "code", source))
    return found


def make_notebook(text: str) -> Any:
    """The notebook of a text in the percent format, not executed."""
    notebook = nbformat.v4.new_notebook()
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, (kind, source) in enumerate(cells(text)):
        new = nbformat.v4.new_markdown_cell if kind == "markdown" else nbformat.v4.new_code_cell
        notebook.cells.append(new(source, id=f"cell-{number:03}"))  # fixed ids: a small change stays a small diff
    return notebook


def execute(notebook: Any, folder: Path, timeout: float = 1200, env: dict[str, str] | None = None) -> None:
    """Run all cells with this interpreter, in `folder`."""
    client = NotebookClient(notebook, timeout=timeout, resources={"metadata": {"path": str(folder)}})
    manager = client.create_kernel_manager()
    # Whatever kernel is registered as python3: the tests are about this environment.
    manager.kernel_spec.argv = [  # log errors only: kernels on TCP warn about every start
        sys.executable,
        "-m",
        "ipykernel_launcher",
        "-f",
        "{connection_file}",
        "--log-level=40",
    ]
    client.execute(**({} if env is None else {"env": env}))
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # timestamps, which would change with every run
        if cell.cell_type == "code":
            cell.outputs = tidy(cell.outputs)


def tidy(outputs: list[Any]) -> list[Any]:
    """Join what was printed in pieces, and keep of it what a terminal shows in the end."""
    joined: list[Any] = []
    for output in outputs:
        before = joined[-1] if joined else None
        if before is not None and output.output_type == before.output_type == "stream" and output.name == before.name:
            before.text += output.text
        else:
            joined.append(output)
    for output in joined:
        if output.output_type == "stream":
            output.text = as_a_terminal_shows(output.text)
    return [output for output in joined if output.output_type != "stream" or output.text.strip()]


def as_a_terminal_shows(text: str) -> str:
    """Text after its carriage returns: progress bars are gone."""
    return "\n".join(line.split("\r")[-1].rstrip() for line in text.split("\n"))


def main() -> None:
    """Execute and write."""
    notebook = make_notebook(SOURCE.read_text(encoding="utf-8"))
    native.library()  # else the notebook tells that something is compiled, once per machine
    started = time.perf_counter()
    execute(notebook, ROOT)
    nbformat.validate(notebook)
    NOTEBOOK.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
    size = NOTEBOOK.stat().st_size
    print(f"{NOTEBOOK.name}: executed in {time.perf_counter() - started:.0f} s, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
