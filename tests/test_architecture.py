"""The layers, held by reading the source: a package imports only what lies below it (docs/architecture.md).

Imports count wherever they stand, in functions and under TYPE_CHECKING too. Every rule is also shown a made-up
package that breaks it: a checker that finds nothing must not pass for a clean house.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "gpt2"

# Lowest first. Modules of the lowest layer may use one another, without circles; above it, neighbours may not.
LAYERS = (
    ("config", "device", "documents", "errors", "files", "generation", "manifest", "native", "settings", "text_files"),
    ("model", "tokenizer"),
    ("data", "checkpoint"),
    ("evaluation", "inspection"),
    ("report", "doctor"),
    ("training", "serving", "interop"),
    ("experiments",),
    ("cli",),
    ("__init__", "__main__"),
)
LAYER_OF = {unit: number for number, units in enumerate(LAYERS) for unit in units}

# Help and usage errors must not wait for torch.
WITHOUT_TORCH = ("__init__", "__main__", "cli", "config", "documents", "errors", "files", "settings", "text_files")

MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 60


@dataclass(frozen=True)
class Import:
    """One module that a file imports."""

    file: Path
    line: int
    module: str
    """Dotted and absolute: "gpt2.model.ops"."""
    at_load: bool
    """Runs when the file is imported: in no function and not under TYPE_CHECKING."""


def python_files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*.py") if "__pycache__" not in path.parts)


def imports_of(path: Path, root: Path) -> Iterator[Import]:
    """Every import of a file of the package at `root`, `importlib.import_module` of a literal included."""
    package = [root.name, *path.relative_to(root).parent.parts]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    at_load = {id(node) for node in _run_at_load(tree)}
    for node in ast.walk(tree):
        for module in _modules(node, package):
            yield Import(path, getattr(node, "lineno", 0), module, id(node) in at_load)


def _modules(node: ast.AST, package: list[str]) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = package[: len(package) - node.level + 1] if node.level else []
        origin = ".".join([*base, *([node.module] if node.module else [])])
        # `from gpt2 import model` imports gpt2.model as `from gpt2.model import GPT2` does.
        return [f"{origin}.{alias.name}" for alias in node.names] if origin == package[0] else [origin]
    if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
        name = node.args[0] if node.args else None
        if isinstance(name, ast.JoinedStr) and name.values:
            name = name.values[0]  # f"gpt2.cli.{name}": the package is what counts
        if isinstance(name, ast.Constant) and isinstance(name.value, str):
            return [name.value.rstrip(".")]
    return []


def _run_at_load(tree: ast.AST) -> Iterator[ast.AST]:
    """Statements that run when the module is imported."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for statement in child.orelse:
                yield statement
                yield from _run_at_load(statement)
            continue
        yield child
        yield from _run_at_load(child)


def unit_of(path: Path, root: Path) -> str:
    """The package or module at the top level that a file belongs to."""
    return path.relative_to(root).parts[0].removesuffix(".py")


def units_used(root: Path) -> Iterator[tuple[Import, str, str]]:
    """(import, unit that imports, unit that is imported), of units of the package other than its own."""
    for path in python_files(root):
        for item in imports_of(path, root):
            first, *rest = item.module.split(".")
            if first == root.name and rest != ["__version__"]:
                target = rest[0] if rest and _exists(root, rest[0]) else "__init__"  # `from gpt2 import GPT2`
                if target != unit_of(path, root):
                    yield item, unit_of(path, root), target


def _exists(root: Path, unit: str) -> bool:
    return (root / unit).is_dir() or (root / f"{unit}.py").is_file()


def layer_violations(root: Path) -> list[str]:
    found = [
        f"{path}: {unit_of(path, root)} is in no layer; give it one in LAYERS and in docs/architecture.md"
        for path in python_files(root)
        if unit_of(path, root) not in LAYER_OF
    ]
    edges = set()
    for item, unit, target in units_used(root):
        here, there = LAYER_OF.get(unit, -1), LAYER_OF.get(target, len(LAYERS))
        if here == there == 0:
            edges.add((unit, target))
        elif there >= here and here != len(LAYERS) - 1:
            found.append(f"{item.file}:{item.line}: {unit} (layer {here}) imports {target} (layer {there})")
    return found + _circles(edges)


def _circles(edges: set[tuple[str, str]]) -> list[str]:
    """Takes away what uses nothing or is not used, again and again; what cannot be taken away is a circle."""
    while True:
        within = {a for a, _ in edges} & {b for _, b in edges}
        left = {(a, b) for a, b in edges if a in within and b in within}
        if left == edges:
            return [f"the lowest layer has a circle among {', '.join(sorted({a for a, _ in edges}))}"] if edges else []
        edges = left


def torch_violations(root: Path) -> list[str]:
    """Modules that must not load torch and do, directly or through another module of the package."""
    at_load = {path: [item for item in imports_of(path, root) if item.at_load] for path in python_files(root)}

    def loads_torch(path: Path, seen: frozenset[Path]) -> str | None:
        for item in at_load[path]:
            if item.module.split(".")[0] == "torch":
                return f"{item.file}:{item.line}"
            for other in _files_loaded(item.module, root):
                if other not in seen and (where := loads_torch(other, seen | {other})):
                    return where
        return None

    checked = [path for path in at_load if unit_of(path, root) in WITHOUT_TORCH]
    return [
        f"{path} loads torch when imported, at {where}"
        for path in checked
        if (where := loads_torch(path, frozenset({path})))
    ]


def _files_loaded(module: str, root: Path) -> list[Path]:
    """The files of the package that importing `module` runs."""
    first, *rest = module.split(".")
    if first != root.name:
        return []
    files, folder = [root / "__init__.py"], root
    for part in rest:
        files += [folder / f"{part}.py", folder / part / "__init__.py"]
        folder /= part
    return [path for path in files if path.is_file()]


def name_violations(folder: Path, forbidden: str) -> list[str]:
    """Identifiers (not words of strings or comments) that match `forbidden`."""
    pattern, found = re.compile(forbidden, re.IGNORECASE), []
    for path in python_files(folder):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = (getattr(node, key, None) for key in ("id", "attr", "arg", "name", "module", "asname"))
            if any(isinstance(name, str) and pattern.search(name) for name in names):
                found.append(f"{path}:{getattr(node, 'lineno', 0)}: {ast.unparse(node).splitlines()[0]}")
    return found


def length_violations(root: Path) -> list[str]:
    found = []
    for path in python_files(root):
        text = path.read_text(encoding="utf-8")
        if (lines := len(text.splitlines())) > MAX_FILE_LINES:
            found.append(f"{path} has {lines} lines, more than {MAX_FILE_LINES}")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1 - _docstring_lines(node)
                if lines > MAX_FUNCTION_LINES:
                    found.append(f"{path}:{node.lineno}: {node.name} has {lines} lines, more than {MAX_FUNCTION_LINES}")
    return found


def _docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = node.body[0]
    is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return (first.end_lineno or first.lineno) - first.lineno + 1 if is_docstring else 0


def undeclared_imports(root: Path, declared: set[str]) -> list[str]:
    """Third-party modules that no entry of pyproject.toml installs."""
    known = declared | {root.name} | set(sys.stdlib_module_names)
    return [
        f"{item.file}:{item.line}: {item.module}"
        for path in python_files(root)
        for item in imports_of(path, root)
        if item.module.split(".")[0] not in known
    ]


def declared_dependencies() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: lines for name, lines in project["optional-dependencies"].items() if name != "dev"}
    lines = [*project["dependencies"], *(line for some in extras.values() for line in some)]
    return {re.split(r"[^\w.-]", line)[0].replace("-", "_").lower() for line in lines}


def test_a_package_imports_only_from_lower_layers() -> None:
    assert layer_violations(SOURCE) == []


def test_the_walk_sees_the_package() -> None:
    """A check over no files would pass too."""
    units = {unit_of(path, SOURCE) for path in python_files(SOURCE)}
    assert {"model", "training", "cli", "data", "tokenizer"} <= units
    used = {(unit, target) for _, unit, target in units_used(SOURCE)}
    assert {("model", "generation"), ("training", "evaluation"), ("cli", "training"), ("data", "tokenizer")} <= used


def test_help_needs_no_torch() -> None:
    assert torch_violations(SOURCE) == []


def test_the_model_knows_no_optimizer_and_sets_no_hook() -> None:
    assert name_violations(SOURCE / "model", r"optim|adam|muon|sgd|^register_\w*hook") == []


def test_the_trainer_knows_no_gpt() -> None:
    trainer = SOURCE / "training" / "trainer.py"
    assert [item for item in imports_of(trainer, SOURCE) if item.module.startswith("gpt2.model")] == []


def test_what_is_imported_is_declared() -> None:
    assert undeclared_imports(SOURCE, declared_dependencies()) == []


def test_files_and_functions_are_short() -> None:
    assert length_violations(SOURCE) == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("model/gpt2.py", "from gpt2.training import adamw"),
        ("model/gpt2.py", "import gpt2.data.shards"),
        ("model/gpt2.py", "from ..training import adamw"),
        ("model/gpt2.py", "from gpt2 import training"),
        ("model/gpt2.py", "def f():\n    from gpt2.training import adamw"),
        ("model/gpt2.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from gpt2.training import adamw"),
        ("model/gpt2.py", "from importlib import import_module\nimport_module('gpt2.training.adamw')"),
        ("model/gpt2.py", "from gpt2.tokenizer import Tokenizer"),
        ("errors.py", "from gpt2.model import gpt2"),
        ("interop/gguf.py", "from gpt2.training import adamw"),
        ("training/adamw.py", "from gpt2.cli import main"),
        ("training/adamw.py", "from gpt2 import GPT2"),
        ("wonders.py", "x = 1"),
    ],
)
def test_a_wrong_import_is_found(tmp_path: Path, file: str, line: str) -> None:
    root = made_up_package(tmp_path)
    assert layer_violations(root) == []
    (root / file).parent.mkdir(exist_ok=True)
    (root / file).write_text(line + "\n", encoding="utf-8")
    (violation,) = layer_violations(root)
    assert file.replace("/", "\\" if sys.platform == "win32" else "/") in violation


def test_a_circle_in_the_lowest_layer_is_found(tmp_path: Path) -> None:
    root = made_up_package(tmp_path)
    (root / "files.py").write_text("from gpt2.config import shape\n", encoding="utf-8")
    (root / "config.py").write_text("def f():\n    from gpt2.files import atomic\n", encoding="utf-8")
    assert layer_violations(root) == ["the lowest layer has a circle among config, files"]


@pytest.mark.parametrize(
    "line", ["import torch", "from torch import nn", "from gpt2.model import GPT2", "if 1:\n    import torch"]
)
@pytest.mark.parametrize("file", ["cli/train.py", "settings.py", "config.py"])
def test_torch_at_module_level_is_found(tmp_path: Path, file: str, line: str) -> None:
    root = made_up_package(tmp_path)
    (root / file).write_text(f"def f():\n    import torch\n\n\n{line}\n", encoding="utf-8")
    assert any(str(root / file) in violation for violation in torch_violations(root))


def test_torch_in_a_function_is_no_violation(tmp_path: Path) -> None:
    root = made_up_package(tmp_path)
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\ndef f():\n    import torch\n"
    (root / "cli" / "train.py").write_text(text, encoding="utf-8")
    assert torch_violations(root) == []


def test_an_optimizer_or_hook_in_the_model_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text('"""No optimizer here."""\nx.register_forward_hook(f)\n', encoding="utf-8")
    (tmp_path / "b.py").write_text("def f(optimizer):\n    return 1\n", encoding="utf-8")
    assert [Path(v.split(":")[0]).name for v in name_violations(tmp_path, "optim|^register_")] == ["a.py", "b.py"]


def test_an_undeclared_import_is_found(tmp_path: Path) -> None:
    root = made_up_package(tmp_path)
    (root / "files.py").write_text("import os\nimport requests\n", encoding="utf-8")
    assert [v.split(": ")[1] for v in undeclared_imports(root, declared_dependencies())] == ["requests"]


def test_long_files_and_functions_are_found(tmp_path: Path) -> None:
    body = "".join(f"    x = {n}\n" for n in range(MAX_FUNCTION_LINES))
    (tmp_path / "a.py").write_text(f"def f():\n{body}", encoding="utf-8")
    (tmp_path / "b.py").write_text("x = 1\n" * (MAX_FILE_LINES + 1), encoding="utf-8")
    long = '    """One.\n' + "\n" * MAX_FUNCTION_LINES + '    """\n'
    (tmp_path / "c.py").write_text(f"def f():\n{long}    return 1\n", encoding="utf-8")
    assert [Path(re.split(r":\d| has", v)[0]).name for v in length_violations(tmp_path)] == ["a.py", "b.py"]


def made_up_package(folder: Path) -> Path:
    """A package `gpt2` that keeps all the rules."""
    root = folder / "gpt2"
    files = {
        "__init__.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from gpt2.model import GPT2\n",
        "errors.py": "",
        "config.py": "from gpt2.errors import ConfigError\n",
        "files.py": "from gpt2.errors import UserError\n",
        "settings.py": "from gpt2.config import shape\n",
        "model/__init__.py": "from gpt2.model.gpt2 import GPT2\n",
        "model/gpt2.py": "import torch\nfrom gpt2.config import shape\n",
        "tokenizer/__init__.py": "",
        "data/shards.py": "from gpt2.tokenizer import Tokenizer\n",
        "training/adamw.py": "from gpt2.model import GPT2\n",
        "interop/gguf.py": "from ..model import GPT2\n",
        "cli/__init__.py": "from importlib import import_module\nimport_module(f'gpt2.cli.{1}')\n",
        "cli/train.py": "def main():\n    from gpt2.training import adamw\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root
