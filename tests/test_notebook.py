"""GPT2.ipynb: it is its source, it is from scratch, it runs with the package and without."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from gpt2 import GPT2, GPT2Config, load
from gpt2.data import iter_documents

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

ROOT = Path(__file__).resolve().parents[1]
SKIPPED = "skipped: the package is not installed"
EXAMPLE = """\
context = torch.tensor([tokenizer.encode("Once upon a time")], dtype=torch.long)
output = model.generate(context, max_new_tokens=100, temperature=0.8)
print(tokenizer.decode(output[0].tolist()))
"""
FROM_NN = {"Module", "ModuleList", "Parameter"}
PLAIN_MODULES = {
    "collections",
    "dataclasses",
    "math",
    "matplotlib",
    "os",
    "pathlib",
    "sys",
    "time",
    "tokenizers",
    "tqdm",
}
# Smaller and shorter, for the tests of what does not depend on the size.
SMALLER = {
    "num_layers = 6 if gpu else 4": "num_layers = 2",
    "d_model = 512 if gpu else 96": "d_model = 32",
    "context_length = 512 if gpu else 128": "context_length = 64",
    "vocab_size = 10_048 if gpu else 2048": "vocab_size = 512",
    "data_fraction = 0.1": "data_fraction = 1.0",
    "epochs = None": "epochs = 3",
    "train_small(240, descend, shift)": "train_small(140, descend, shift)",
}


def load_builder() -> Any:
    spec = importlib.util.spec_from_file_location("notebook_builder", ROOT / "notebooks" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


builder = load_builder()


@pytest.fixture
def notebook() -> Any:
    return nbformat.read(ROOT / "GPT2.ipynb", as_version=4)


def code_of(notebook: Any) -> str:
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")


def printed(notebook: Any) -> str:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error"]
    errors = [output.text for output in outputs if output.output_type == "stream" and output.name == "stderr"]
    assert not errors, errors
    return "".join(output.text for output in outputs if output.output_type == "stream")


def smaller(source: str) -> str:
    for old, new in SMALLER.items():
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    return source


def environment(seconds: float, **others: str) -> dict[str, str]:
    """For the kernel: one thread, as the tests share the machine; warnings that Python hides by default are shown."""
    return {**os.environ, "GPT2_NOTEBOOK_SECONDS": str(seconds), "OMP_NUM_THREADS": "1", **others}


def test_the_notebook_is_its_source(notebook: Any) -> None:
    built = builder.make_notebook(builder.SOURCE.read_text(encoding="utf-8"))
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == [
        (cell.cell_type, cell.source) for cell in built.cells
    ], "GPT2.ipynb and notebooks/GPT2.py differ; run: python notebooks/build.py"


def test_committed_with_outputs_from_top_to_bottom_and_small(notebook: Any) -> None:
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    text = printed(notebook)
    assert "bits per byte on" in text
    assert SKIPPED not in text
    pictures = [o for cell in code for o in cell.outputs if "image/png" in o.get("data", {})]
    assert len(pictures) >= 20
    kinds = {kind for cell in code for o in cell.outputs for kind in o.get("data", {})}
    assert kinds <= {"image/png", "text/plain"}  # no scripts, no widgets: what every viewer shows
    assert (ROOT / "GPT2.ipynb").stat().st_size < 2_000_000
    assert EXAMPLE in code_of(notebook) + "\n"


def sections(notebook: Any) -> dict[str, list[Any]]:
    """The cells of each numbered section."""
    found: dict[str, list[Any]] = {}
    name = ""
    for cell in notebook.cells:
        title = re.match(r"## (\d+ .+)", cell.source) if cell.cell_type == "markdown" else None
        name = title[1] if title else name
        if name:
            found.setdefault(name, []).append(cell)
    return found


def test_every_section_predicts_runs_shows_and_checks(notebook: Any) -> None:
    *lessons, (last, exercises) = sections(notebook).items()
    assert len(lessons) >= 15
    for name, cells in lessons:
        prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        assert "**Predict.**" in prose, name
        assert any("\u2713 " in output.get("text", "") for output in outputs), name
        if not name.endswith("Save and load"):
            assert any("image/png" in output.get("data", {}) for output in outputs), name
    assert last.endswith("Exercises")
    text = exercises[0].source
    assert len(re.findall(r"^\d+\. ", text, re.MULTILINE)) == 10
    assert text.count("<details>") == text.count("</details>") == 10


def test_a_sentence_that_is_not_true_fails(notebook: Any) -> None:
    (helpers,) = [cell.source for cell in notebook.cells if cell.cell_type == "code" and "def check(" in cell.source]
    names: dict[str, Any] = {"Tensor": None, "Callable": dict, "nn": torch.nn, "torch": torch}
    tree = ast.parse(helpers)
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "check"]
    exec(compile(tree, "check", "exec"), names)
    names["check"]("one is one", True)
    with pytest.raises(AssertionError, match="one is two"):
        names["check"]("one is two", False)


def violations(source: str) -> list[str]:
    """What a from-scratch notebook must not use: PyTorch's own layers, functions of layers, losses and optimizers."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            home, names = node.module or "", {alias.name for alias in node.names}
            allowed = names <= {"Tensor", "nn"} if home == "torch" else home.split(".")[0] in PLAIN_MODULES
            if not allowed:
                found.append(f"from {home} import {', '.join(sorted(names))}")
        elif isinstance(node, ast.Import):
            plain = PLAIN_MODULES | {"gpt2"}
            found += [a.name for a in node.names if a.name != "torch" and a.name.split(".")[0] not in plain]
            found += [a.name for a in node.names if a.name == "torch" and a.asname]
        elif isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value)
            if owner in ("nn", "torch.nn") and node.attr not in FROM_NN:
                found.append(f"{owner}.{node.attr}")
            if owner == "torch" and node.attr in (
                "optim",
                "softmax",
                "dropout",
                "layer_norm",
                "embedding",
                "jit",
                "ops",
            ):
                found.append(f"torch.{node.attr}")
            if node.attr in ("softmax", "log_softmax", "scaled_dot_product_attention", "_nn", "cross_entropy"):
                package = owner.startswith(("gpt2", "kernels"))
                if not package:
                    found.append(f"{owner}.{node.attr}")
    return found


def test_from_scratch(notebook: Any) -> None:
    assert violations(code_of(notebook)) == []


@pytest.mark.parametrize(
    "line",
    [
        "layer = nn.Linear(2, 2)",
        "layer = torch.nn.LayerNorm(2)",
        "import torch.nn.functional as F",
        "from torch.nn import functional",
        "from torch.nn import Embedding",
        "from torch import optim",
        "optimizer = torch.optim.AdamW([])",
        "y = torch.softmax(x, -1)",
        "y = x.softmax(-1)",
        "y = nn.functional.gelu(x)",
        "from transformers import GPT2LMHeadModel",
        "import transformers",
    ],
)
def test_from_scratch_test_would_notice(line: str) -> None:
    assert violations(line)


def test_every_section_of_the_contents_exists(notebook: Any) -> None:
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    numbers = [int(number) for number in re.findall(r"^## (\d+) ", text, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))
    contents = notebook.cells[0].source
    for title in re.findall(r"^## \d+ (.+)$", text, re.MULTILINE):
        assert title in contents, title
    for number in re.findall(r"[Ss]ection (\d+)", text + code_of(notebook)):
        assert int(number) in numbers


@pytest.mark.slow
def test_runs_with_the_package_and_the_package_loads_what_it_saves(tmp_path: Path) -> None:
    """On the bundled stories, at its default size, in a quarter of a minute."""
    tiny = GPT2(GPT2Config(vocab_size=64, context_length=16, d_model=16, num_layers=1, num_heads=2))
    tiny.generate(torch.zeros(1, 1, dtype=torch.long), max_new_tokens=1)  # said on stderr: the step is being compiled
    run = builder.make_notebook(builder.SOURCE.read_text(encoding="utf-8"))
    builder.execute(run, tmp_path, env=environment(8))
    text = printed(run)
    assert "the stories that come with the package" in text
    assert SKIPPED not in text
    comparisons = code_of(run).count("same(") - 1  # one is its definition
    assert text.count("equal to the package's") == comparisons + 1  # both optimizers in one loop
    assert (tmp_path / "models/tokenizer.json").is_file()
    model, tokenizer = load(tmp_path / "models/gpt2_model.pt")
    context = torch.tensor([tokenizer.encode("Once upon a time")], dtype=torch.long)
    output = model.generate(context, max_new_tokens=20, temperature=0.8)
    assert tokenizer.decode(output[0].tolist()).startswith("Once upon a time")
    bits = re.search(r"([\d.]+) bits per byte on", text)
    assert bits is not None
    assert float(bits[1]) < 8


def test_runs_alone_with_a_text_file(tmp_path: Path) -> None:
    """As on Kaggle: no package, only a file; AdamW, and a number of epochs."""
    blocker = tmp_path / "hide"
    blocker.mkdir()
    (blocker / "sitecustomize.py").write_text(
        "import sys\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'gpt2':\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Hide())\n"
    )
    write_stories(tmp_path / "data/TinyStories-train.txt", 300)
    source = smaller(builder.SOURCE.read_text(encoding="utf-8"))
    source = source.replace('optimizer_name = "muon"', 'optimizer_name = "adamw"').replace(
        "dropout = 0.0\n", "dropout = 0.1\n"
    )
    run = builder.make_notebook(source)
    builder.execute(run, tmp_path, env=environment(0, PYTHONPATH=str(blocker)))
    text = printed(run)
    assert "the package gpt2 is not installed" in text
    assert "from data/TinyStories-train.txt" in text.replace("\\", "/")
    assert "equal to the package's" not in text
    code = code_of(run)
    said = code.count(f'print("{SKIPPED}')  # beside the two helpers, each of which is defined once
    views = len(re.findall(r"^view\(", code, re.MULTILINE))
    assert text.count(SKIPPED) == code.count("same(") + views + said
    assert (tmp_path / "models/tokenizer.json").is_file()
    model, _ = load(tmp_path / "models/gpt2_model.pt")  # and yet the package loads it
    assert model.config.num_layers == 2


def test_says_what_to_do_when_there_is_no_text(tmp_path: Path) -> None:
    """The cells up to the text, in a plain interpreter that cannot import the package."""
    cells = [source for kind, source in builder.cells(builder.SOURCE.read_text(encoding="utf-8")) if kind == "code"]
    until = next(number for number, source in enumerate(cells) if "def find_text" in source)
    hide = "import sys\nsys.modules['gpt2'] = None\nimport matplotlib\nmatplotlib.use('Agg')\n"
    script = tmp_path / "cells.py"
    script.write_text(hide + "\n".join(cells[: until + 1]), encoding="utf-8")
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "Put a text file at data/TinyStories-train.txt" in done.stderr


def write_stories(path: Path, count: int) -> None:
    """Real text, for what the notebook says must be true of it."""
    path.parent.mkdir(parents=True)
    stories = [story for _, story in zip(range(count), iter_documents(), strict=False)]
    path.write_text("\n<|endoftext|>\n".join([*stories, ""]), encoding="utf-8")
