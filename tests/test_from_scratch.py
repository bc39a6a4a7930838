"""The promise: every layer, optimizer and loss by hand; and no file that we load can run code.

Both are held by reading the source. Names are followed through import aliases and plain assignments, so that
`from torch import nn as n` hides nothing. Each rule is also shown code that breaks it.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "gpt2"

ALLOWED_OF_NN = {"Module", "Parameter", "ModuleList", "parallel"}  # parallel: no mathematics, only many processes
FUNCTIONAL = "torch.nn.functional"
FUSED = "model/ops/fused.py"  # the one home of torch.nn.functional
REFERENCE = "model/ops/reference.py"

# Layers and losses that PyTorch also has outside torch.nn: fast kernels, so they may stand beside fused.py.
KERNELS = (
    *(f"torch.{name}" for name in (
        "softmax", "log_softmax", "layer_norm", "native_layer_norm", "rms_norm", "group_norm", "batch_norm", "dropout",
        "native_dropout", "feature_dropout", "embedding", "embedding_bag", "relu", "selu", "celu", "prelu", "gelu",
        "bilinear", "scaled_dot_product_attention", "cross_entropy_loss", "nll_loss", "multi_head_attention_forward",
    )),
    *(f"torch.Tensor.{name}" for name in ("softmax", "log_softmax", "relu", "relu_")),
    "torch.special.softmax", "torch.special.log_softmax", "torch.ops",
)  # fmt: skip
NOWHERE = ("torch._C", "torch.optim")
METHODS = {"softmax", "log_softmax", "relu", "relu_"}

# Reading what these read runs code of whoever wrote it.
UNSAFE = (
    "pickle.load", "pickle.loads", "pickle.Unpickler", "dill", "cloudpickle", "joblib", "shelve", "marshal",
    "torch.serialization.load", "pandas.read_pickle", "yaml.load", "yaml.unsafe_load", "yaml.full_load",
    "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput",
    "builtins.eval", "builtins.exec", "eval", "exec",
)  # fmt: skip

# Parent and tokenising children, both this program, talk over pipes; nothing from a file or the network comes that way.
PIPES = {"tokenizer/parallel.py": {"pickle.load"}}


class Names:
    """What each name of a file stands for: `n` -> "torch.nn" after `from torch import nn as n`."""

    def __init__(self, tree: ast.AST) -> None:
        self._known: dict[str, str] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    name = alias.asname or alias.name.split(".")[0]
                    self._known[name] = alias.name if alias.asname else name
            elif isinstance(node, ast.ImportFrom) and not node.level:
                for alias in node.names:
                    self._known[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr) and node.value is not None:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                path = self.path(node.value)
                if path is not None and path.split(".")[0] in ("torch", "pickle", "numpy"):
                    self._known |= {target.id: path for target in targets if isinstance(target, ast.Name)}

    def path(self, node: ast.AST) -> str | None:
        """The dotted path of an expression; None: it is none."""
        if isinstance(node, ast.Name):
            return self._known.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            base = self.path(node.value)
            return None if base is None else f"{base}.{node.attr}"
        if isinstance(node, ast.Call) and self.path(node.func) in ("getattr", "importlib.import_module", "__import__"):
            texts = [item.value if isinstance(item, ast.Constant) else "?" for item in node.args]
            if self.path(node.func) != "getattr":
                return str(texts[0]) if texts else None
            base = self.path(node.args[0]) if len(texts) > 1 else None
            return None if base is None else f"{base}.{texts[1]}"
        return None


def _used(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Every dotted path that a file imports or names."""
    names = Names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node, f"{node.module}.{alias.name}") for alias in node.names)
        elif (path := names.path(node)) is not None:
            yield node, path


def ready_made_parts(root: Path) -> list[str]:
    """Where a layer, loss or optimizer that somebody else wrote is used."""
    found = []
    for path, name, tree in _files(root):
        calls = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        for node, used in _used(tree):
            is_kernel = _is_one_of(used, KERNELS)
            is_kernel |= isinstance(node, ast.Attribute) and id(node) in calls and node.attr in METHODS
            may_have_kernels = name.startswith("model/ops/") and name != REFERENCE
            if _is_ready_made(used, name == FUSED) or (is_kernel and not may_have_kernels):
                found.append(f"{path}:{getattr(node, 'lineno', 0)}: {used}")
    return found


def _is_ready_made(used: str, fused: bool) -> bool:
    parts = used.split(".")
    if parts[0] != "torch":
        return False
    if used == FUNCTIONAL or used.startswith(f"{FUNCTIONAL}."):
        return not fused
    if parts[1:2] == ["nn"] and len(parts) > 2:
        return parts[2] not in ALLOWED_OF_NN
    return _is_one_of(used, NOWHERE) or (parts[-1] == "*") or (parts[1:2] == ["?"])


def unsafe_loading(root: Path) -> list[str]:
    """Where a file could run code, or a shell is called."""
    found = []
    for path, name, tree in _files(root):
        names = Names(tree)
        for node, used in _used(tree):
            is_import = isinstance(node, ast.Import | ast.ImportFrom)
            if _is_one_of(used, UNSAFE) and not is_import and used not in PIPES.get(name, ()):
                found.append(f"{path}:{getattr(node, 'lineno', 0)}: {used}")
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and (reason := _unsafe_call(names.path(node.func), node)):
                found.append(f"{path}:{node.lineno}: {reason}")
    return found


def _unsafe_call(function: str | None, call: ast.Call) -> str | None:
    keywords = {item.arg: item.value for item in call.keywords}

    def says(name: str, value: bool) -> bool:
        given = keywords.get(name)
        return isinstance(given, ast.Constant) and given.value is value

    if function == "torch.load" and not says("weights_only", True):
        return "torch.load without a literal weights_only=True"
    if "allow_pickle" in keywords and not says("allow_pickle", False):
        return "allow_pickle"
    if "shell" in keywords and not says("shell", False):
        return "shell"
    return None


def _is_one_of(used: str, listed: tuple[str, ...]) -> bool:
    return any(used == entry or used.startswith(f"{entry}.") for entry in listed)


def _files(root: Path) -> Iterator[tuple[Path, str, ast.AST]]:
    for path in sorted(root.rglob("*.py")):
        yield path, path.relative_to(root).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def test_every_part_is_made_by_hand() -> None:
    assert ready_made_parts(SOURCE) == []


def test_no_file_can_run_code() -> None:
    assert unsafe_loading(SOURCE) == []


def test_the_walk_sees_the_kernels() -> None:
    """The rule bites: the fused kernels, under any other name, would break it."""
    (path,) = [path for path, name, _ in _files(SOURCE) if name == FUSED]
    used = {used for _, used in _used(ast.parse(path.read_text(encoding="utf-8")))}
    assert {f"{FUNCTIONAL}.scaled_dot_product_attention", f"{FUNCTIONAL}.layer_norm"} <= used


@pytest.mark.parametrize("name", ["model/layers.py", "training/loss.py", REFERENCE])
@pytest.mark.parametrize(
    "code",
    [
        "import torch\nx = torch.nn.Linear(1, 2)",
        "from torch import nn\nx = nn.LayerNorm(3)",
        "from torch import nn as n\nx = n.Embedding(3, 4)",
        "import torch.nn as layers\nx = layers.MultiheadAttention(4, 2)",
        "from torch.nn import TransformerEncoderLayer as Mine",
        "from torch.nn.modules.activation import GELU",
        "import torch as t\nparts = t.nn\nx = parts.Dropout(0.1)",
        "import torch\nx = getattr(torch.nn, 'ReLU')()",
        "import torch\nx = getattr(torch.nn, wanted)()",
        "import torch\nx = getattr(torch, wanted)()",
        "from importlib import import_module\nx = import_module('torch.nn').CrossEntropyLoss()",
        "from importlib import import_module\nx = import_module('torch.nn.functional')",
        "class Net(nn.Module):\n    pass\nfrom torch import nn\nnn.Softmax(-1)",
        "from torch import nn\nx = nn.Sequential()",
        "from torch import nn\nnn.init.normal_(w)",
        "import torch.nn.functional as F\nF.gelu(x)",
        "from torch.nn import functional",
        "from torch.nn.functional import cross_entropy",
        "import torch\ntorch.nn.functional.linear(x, w)",
        "from torch import *",
        "import torch\ntorch.softmax(x, -1)",
        "import torch\ntorch.layer_norm(x, (3,))",
        "x = scores.softmax(-1)",
        "def f():\n    from torch import optim\n    return optim.AdamW(p)",
        "import torch\ntorch.optim.SGD(p)",
        "from torch.optim.lr_scheduler import CosineAnnealingLR",
        "import torch\ntorch._C._nn.gelu(x)",
        "import torch\ntorch.ops.aten.gelu(x)",
    ],
)
def test_a_ready_made_part_is_found(tmp_path: Path, name: str, code: str) -> None:
    assert ready_made_parts(_file(tmp_path, name, code)) != []


@pytest.mark.parametrize("code", ["from torch import optim", "from torch import nn\nnn.Linear(1, 2)"])
def test_the_fused_kernels_are_free_in_functional_only(tmp_path: Path, code: str) -> None:
    allowed = "import torch.nn.functional as F\nfrom torch.nn.functional import gelu\nF.layer_norm(x, (3,))\n"
    assert ready_made_parts(_file(tmp_path, FUSED, allowed)) == []
    assert ready_made_parts(_file(tmp_path, FUSED, allowed + code)) != []


def test_files_beside_the_fused_kernels_have_kernels_but_not_functional(tmp_path: Path) -> None:
    code = "import torch\ntorch.softmax(x, -1)\nx.softmax(-1)\ntorch.ops.aten._softmax_backward_data(g, y)\n"
    assert ready_made_parts(_file(tmp_path, "model/ops/cpu.py", code)) == []
    assert ready_made_parts(_file(tmp_path, "model/ops/cpu.py", f"{code}torch.nn.functional.softmax(x, -1)")) != []


def test_what_the_rule_allows(tmp_path: Path) -> None:
    code = (
        "import torch\nfrom torch import Tensor, nn\nfrom gpt2.model.layers import Linear, LayerNorm\n"
        "class Block(nn.Module):\n    def __init__(self):\n        self.w = nn.Parameter(torch.empty(2))\n"
        "        self.h = nn.ModuleList()\n        self.c = Linear(1, 2)\n        self.kernels.softmax = torch.exp\n"
        "y = softmax(x) / torch.logsumexp(x, -1) + torch.tanh(x) + getattr(model, name)\n"
    )
    assert ready_made_parts(_file(tmp_path, "model/gpt2.py", code)) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle\npickle.load(file)",
        "from pickle import loads as read\nread(data)",
        "import pickle as p\np.Unpickler(file).load()",
        "import pickle\nread = pickle.load\nread(file)",
        "import dill\ndill.load(file)",
        "import torch\ntorch.load(path)",
        "import torch\ntorch.load(path, weights_only=False)",
        "import torch\ntorch.load(path, weights_only=safe)",
        "import torch\ntorch.load(path, **options)",
        "from torch import load as read\nread(path)",
        "import torch\nread = torch.load\nread(path)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import numpy as np\nnp.load(path, allow_pickle=trust)",
        "eval(text)",
        "exec(text)",
        "import builtins\nbuiltins.eval(text)",
        "import os\nos.system(command)",
        "import subprocess\nsubprocess.run(command, shell=True)",
        "import yaml\nyaml.load(file)",
    ],
)
def test_unsafe_loading_is_found(tmp_path: Path, code: str) -> None:
    assert unsafe_loading(_file(tmp_path, "checkpoint/load.py", code)) != []


def test_what_is_safe(tmp_path: Path) -> None:
    code = (
        "import pickle\nimport numpy as np\nimport torch\nimport subprocess\n"
        "try:\n    torch.load(path, map_location='cpu', weights_only=True)\nexcept pickle.UnpicklingError:\n    pass\n"
        "np.load(path)\nnp.load(path, allow_pickle=False)\nmodel.eval()\nsubprocess.run(['ls'], shell=False)\n"
    )
    assert unsafe_loading(_file(tmp_path, "checkpoint/load.py", code)) == []


def _file(folder: Path, name: str, code: str) -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(code + "\n", encoding="utf-8")
    return folder
