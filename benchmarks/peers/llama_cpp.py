"""llama.cpp through node-llama-cpp, with our weights as a GGUF file.

`npm install node-llama-cpp` in the folder that `LLAMA_CPP_NODE` names, or in the current one; `pip install gguf`.
"""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from benchmarks.measure import Missing
from gpt2 import GPT2Config

TYPES = {"fp32": "f32", "bf16": "f16", "int8": "q8_0"}

_NAMES = {
    "ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
}  # fmt: skip


class LlamaCpp:
    """A process that decodes greedily; its threads wait for each other by spinning, so that one may be the fastest."""

    def __init__(self, config: GPT2Config, weights: Mapping[str, Tensor], kind: str, threads: int) -> None:
        where = Path(os.environ.get("LLAMA_CPP_NODE", "."))
        if shutil.which("node") is None or not (where / "node_modules" / "node-llama-cpp").is_dir():
            raise Missing("npm install node-llama-cpp, and LLAMA_CPP_NODE names the folder")
        self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name) / "model.gguf"
        write(path, config, weights, kind)
        script = Path(__file__).with_suffix(".mjs")
        command = ["node", str(script), str(path), str(threads), str(config.context_length)]
        self._process = subprocess.Popen(
            command, cwd=where, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
            preexec_fn=_ordinary_scheduling,
        )  # fmt: skip
        self._answer()

    def greedy(self, ids: list[int], count: int) -> tuple[list[int], float]:
        """(new ids, seconds)."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"ids": ids, "count": count}) + "\n")
        answer = self._answer()
        return answer["ids"], answer["seconds"]

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()

    def _answer(self) -> dict:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise Missing(f"node-llama-cpp ended with status {self._process.wait()}")


def _ordinary_scheduling() -> None:
    # Its threads wait for each other by spinning: under a real-time class they would keep each other out for ever.
    if hasattr(os, "sched_setscheduler"):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def write(path: Path, config: GPT2Config, weights: Mapping[str, Tensor], kind: str) -> None:
    """A GGUF file of the architecture gpt2; its tokenizer is a makeshift, for ids alone are fed."""
    try:
        import gguf
    except ImportError as error:
        raise Missing("pip install gguf") from error
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.d_model)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(4 * config.d_model)
    writer.add_head_count(config.num_heads)
    writer.add_layer_norm_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"t{number}" for number in range(config.vocab_size)])
    writer.add_token_merges(["t 1"])
    quantization = {"fp32": "F32", "bf16": "F16", "int8": "Q8_0"}[kind]
    for name, tensor in weights.items():
        value = (tensor.T if name.endswith(("c_attn.weight", "c_fc.weight", "c_proj.weight")) else tensor).float()
        matrix = value.ndim == 2 and "wpe" not in name
        stored = gguf.GGMLQuantizationType[quantization if matrix else "F32"]
        data = gguf.quants.quantize(value.contiguous().numpy(), stored)
        writer.add_tensor(_name(name), data, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _name(name: str) -> str:
    parts = name.split(".")
    ending = parts[-1]
    if parts[1] == "h":
        return f"blk.{parts[2]}.{_NAMES['.'.join(parts[3:-1])]}.{ending}"
    return {"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm"}[parts[1]] + f".{ending}"
