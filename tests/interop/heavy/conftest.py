"""What `make interop` prepares: a trained model, the packages of Node, and an environment for the heavy readers."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

from gpt2 import GPT2, Tokenizer, load
from gpt2.data import iter_documents
from gpt2.interop.export import Exported, export

HERE = Path(__file__).parent
NUM_PROMPTS, NEW_TOKENS = 20, 64


def prepared(name: str) -> Path:
    """A path that the Makefile hands over."""
    value = os.environ.get(name)
    if not value or not Path(value).exists():
        pytest.fail(f"{name} is {value!r}; these tests run by: make interop")
    return Path(value).absolute()


def heavy(script: str, *arguments: object) -> dict:
    """Run a script in the environment of the heavy readers, without a network."""
    command = [str(prepared("GPT2_HEAVY_PYTHON")), str(HERE / script), *map(str, arguments)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="session")
def modules() -> Path:
    """The folder node_modules."""
    return prepared("GPT2_NODE_MODULES")


@pytest.fixture(scope="session")
def trained() -> tuple[GPT2, Tokenizer]:
    return load(prepared("GPT2_INTEROP_MODEL"))


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory, modules: Path) -> dict[str, Exported]:
    """Every format in one folder, each through its gate; the gate's findings are printed."""
    out, done = tmp_path_factory.mktemp("exports") / "model", {}
    for to, dtype in (("hf", None), ("onnx", None), ("gguf", "f32"), ("gguf", "f16"), ("gguf", "q8_0"), ("pt", None)):
        done[dtype or to] = exported = export(prepared("GPT2_INTEROP_MODEL"), to, out=out, dtype=dtype)
        for file, parity in exported.verified.items():
            print(f"\n{file}: {parity}", end="")
    return done


@pytest.fixture(scope="session")
def prompts(trained: tuple[GPT2, Tokenizer]) -> list[list[int]]:
    """Beginnings of stories, as ids."""
    stories = (text for _, text in zip(range(NUM_PROMPTS), iter_documents(), strict=False))
    return [trained[1].encode(story[:60]) for story in stories]


@pytest.fixture(scope="session")
def greedy(trained: tuple[GPT2, Tokenizer], prompts: list[list[int]]) -> list[list[int]]:
    """Our own continuations."""
    model = trained[0]
    outputs = [model.generate(torch.tensor([ids]), max_new_tokens=NEW_TOKENS, temperature=0) for ids in prompts]
    return [output[0, len(ids) :].tolist() for ids, output in zip(prompts, outputs, strict=True)]
