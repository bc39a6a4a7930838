"""Other people's programs, as `parity.Reader`: transformers, onnxruntime, and llama.cpp through Node.

Each opens the file by its own means and knows nothing of our model.
"""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from gpt2.config import GPT2Config
from gpt2.errors import MissingExtraError
from gpt2.interop.parity import ParityError

NODE_MODULES = "GPT2_NODE_MODULES"
"""Environment variable: the folder `node_modules` to look into first."""

_SECONDS = 600


class TransformersReader:
    """Hugging Face's GPT2LMHeadModel and AutoTokenizer.

    Args:
        model: the opened model.
        tokenizer: None: there is none.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        import transformers

        self.name = f"transformers {transformers.__version__}"
        self.model, self.tokenizer = model.eval(), tokenizer

    @classmethod
    def of_folder(cls, folder: Path, with_tokenizer: bool = True) -> Self:
        """Open a model folder.

        Raises:
            MissingExtraError: transformers is not installed.
            ParityError: it misses tensors or finds unknown ones.
        """
        transformers = _transformers()
        model, report = transformers.GPT2LMHeadModel.from_pretrained(
            folder, output_loading_info=True, dtype=torch.float32, local_files_only=True
        )
        wrong = {key: found for key, found in report.items() if found}
        if wrong:
            raise ParityError(f"transformers does not accept the tensors of {folder}: {wrong}")
        tokenizer = (
            transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True) if with_tokenizer else None
        )
        return cls(model, tokenizer)

    @classmethod
    def of_state(cls, path: Path, config: GPT2Config) -> Self:
        """Open a .pt file of weights.

        Raises:
            MissingExtraError: transformers is not installed.
            ParityError: the names or shapes are not those of its GPT-2.
        """
        transformers = _transformers()
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**config.to_hf()))
        state = torch.load(path, map_location="cpu", weights_only=True)
        report = model.load_state_dict(state, strict=False)
        if report.unexpected_keys or set(report.missing_keys) - {"lm_head.weight"}:
            raise ParityError(f"transformers does not accept the tensors of {path}: {report}")
        return cls(model, None)

    def logits(self, rows: Sequence[Sequence[int]]) -> list[Tensor]:
        """See `parity.Reader`."""
        with torch.inference_mode():
            return [self.model(torch.tensor([list(row)])).logits[0].float() for row in rows]

    def tokenize(self, texts: Sequence[str]) -> list[list[int]] | None:
        """See `parity.Reader`."""
        if self.tokenizer is None:
            return None
        return [self.tokenizer.encode(text, add_special_tokens=False) for text in texts]


class OnnxReader:
    """onnxruntime on the processor: half of each row at once, the rest one by one through the past's inputs.

    Args:
        path: the model; tokenizer.json is looked for in the folder above.
    """

    def __init__(self, path: Path) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtraError("pip install 'gpt2-from-scratch[export]' brings onnxruntime") from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self.name = f"onnxruntime {onnxruntime.__version__}"
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.past = {item.name: item.shape for item in self.session.get_inputs() if item.name.startswith("past")}
        self.definition = path.parent.parent / "tokenizer.json"

    def logits(self, rows: Sequence[Sequence[int]]) -> list[Tensor]:
        """See `parity.Reader`."""
        return [self._row(list(row)) for row in rows]

    def _row(self, row: list[int]) -> Tensor:
        start = max(1, len(row) // 2)
        pieces = [row[:start], *([token] for token in row[start:])]
        past = {name: np.zeros((1, shape[1], 0, shape[3]), np.float32) for name, shape in self.past.items()}
        found, done = [], 0
        for piece in pieces:
            feeds = {
                "input_ids": np.array([piece], np.int64),
                "attention_mask": np.ones((1, done + len(piece)), np.int64),
                "position_ids": np.arange(done, done + len(piece), dtype=np.int64)[None],
            }
            logits, *present = self.session.run(None, {**feeds, **past})
            past = dict(zip(past, present, strict=True))
            found.append(torch.from_numpy(np.asarray(logits)[0]))
            done += len(piece)
        return torch.cat(found)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]] | None:
        """By the `tokenizers` library: ONNX itself has no tokenizer, programs read tokenizer.json beside it."""
        import tokenizers

        tokenizer = tokenizers.Tokenizer.from_file(str(self.definition))
        return [encoding.ids for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False)]


class LlamaCppReader:
    """llama.cpp, through the npm package node-llama-cpp, which brings it built.

    Args:
        path: a .gguf file.

    Raises:
        MissingExtraError: node or the package is not there.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.package = path, _node_package("node-llama-cpp")
        version = json.loads((self.package / "package.json").read_text(encoding="utf-8"))["version"]
        self.name = f"llama.cpp (node-llama-cpp {version})"

    def logits(self, rows: Sequence[Sequence[int]]) -> list[Tensor]:
        """See `parity.Reader`."""
        answer = self._ask({"rows": [list(row) for row in rows]})
        parts = torch.from_numpy(answer["logits"]).view(-1, answer["vocab_size"]).split([len(row) for row in rows])
        return list(parts)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]] | None:
        """See `parity.Reader`."""
        return self._ask({"texts": list(texts)})["ids"]

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="gpt2-") as name:
            folder = Path(name)
            (folder / "question.json").write_text(json.dumps(question), encoding="utf-8")
            with resources.as_file(resources.files("gpt2.interop") / "llama_cpp.mjs") as script:
                command = ["node", str(script), str(self.package), str(self.path), str(folder)]
                done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS)
            if not (folder / "answer.json").is_file():  # it is written last, so it is whole
                said = done.stderr.strip() or done.stdout.strip() or "it said nothing"
                raise ParityError(
                    f"{self.name} cannot open {self.path.name}; it ended with status {done.returncode}: {said[-2000:]}"
                )
            answer = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
            if (folder / "logits.f32").is_file():
                answer["logits"] = np.fromfile(folder / "logits.f32", dtype="<f4")
            return answer


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError("pip install 'gpt2-from-scratch[export]' brings transformers") from error
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def _node_package(name: str) -> Path:
    """The folder of an npm package: below $GPT2_NODE_MODULES, or where Node would look from the current folder.

    Raises:
        MissingExtraError: it is not there.
    """
    here = Path.cwd()
    folders = [folder / "node_modules" for folder in (here, *here.parents)]
    if NODE_MODULES in os.environ:
        folders.insert(0, Path(os.environ[NODE_MODULES]))
    found = next((folder / name for folder in folders if (folder / name / "package.json").is_file()), None)
    if found is None or shutil.which("node") is None:
        raise MissingExtraError(f"install Node.js (https://nodejs.org) 20 or newer, then here: npm install {name}")
    return found.resolve()
