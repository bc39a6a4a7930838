"""ONNX, the file of onnxruntime and transformers.js: GPT-2's graph with the past as inputs and outputs.

    input_ids (batch, sequence), attention_mask (batch, past + sequence), position_ids (batch, sequence),
    past_key_values.{i}.key and .value (batch, heads, past, head_dim)
        -> logits (batch, sequence, vocab), present.{i}.key and .value (batch, heads, past + sequence, head_dim)

Those are the names and shapes that transformers.js expects. The graph is written node by node: it says what the
model computes and nothing else, and neither tracing nor the model's own cache stands between.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

from gpt2.config import LAYER_NORM_EPSILON, GPT2Config
from gpt2.errors import ConfigError, MissingExtraError
from gpt2.interop.onnx_nodes import Float32Weights, Nodes, QuantisedWeights
from gpt2.model import GPT2

MODEL = "onnx/model.onnx"
QUANTISED = "onnx/model_quantized.onnx"

# Protocol buffers, of which ONNX files are made, end at 2 GiB.
_LARGEST = 2**31 - 2**26
_OPSET, _IR_VERSION = 20, 10  # 20 brought Gelu; onnxruntime 1.17 and later read both


def write_onnx(model: GPT2, path: Path, quantised: bool) -> None:
    """Write the graph with its weights.

    Args:
        model: its weights are converted to float32, or from there to 8 bits.
        path: the file; its folder exists.
        quantised: matrices as 8-bit integers in blocks of 32 with one scale each; the arithmetic stays float32.

    Raises:
        MissingExtraError: the extra `export` is not installed.
        ConfigError: too large for one file, or a width that the blocks do not divide.
    """
    onnx = _library()
    bits = 8 if quantised else 32
    if model.num_parameters() * bits // 8 > _LARGEST:
        raise ConfigError(f"an ONNX file holds at most 2 GiB, this model has {model.num_parameters():,} parameters")
    nodes = Nodes(onnx)
    _graph(nodes, QuantisedWeights(nodes, model) if quantised else Float32Weights(nodes, model), model.config)
    inputs, outputs = _interface(onnx, model.config)
    graph = onnx.helper.make_graph(nodes.nodes, "gpt2", inputs, outputs, nodes.constants)
    opsets = [onnx.helper.make_opsetid("", _OPSET), onnx.helper.make_opsetid("com.microsoft", 1)]
    made = onnx.helper.make_model(
        graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="gpt2-from-scratch"
    )
    onnx.checker.check_model(made)
    onnx.save_model(made, str(path))


def _graph(n: Nodes, weights: Any, config: GPT2Config) -> None:
    x = n.add("Add", [weights.embed("wte", "input_ids"), weights.embed("wpe", "position_ids")])
    allowed = _allowed(n)
    for layer in range(config.num_layers):
        block = f"h.{layer}"
        x = n.add("Add", [x, _attention(n, weights, config, layer, _norm(n, weights, f"{block}.ln_1", x), allowed)])
        inner = weights.linear(f"{block}.mlp.c_fc", _norm(n, weights, f"{block}.ln_2", x))
        branch = weights.linear(f"{block}.mlp.c_proj", n.add("Gelu", [inner], approximate="tanh"))
        x = n.add("Add", [x, branch])
    weights.unembed(_norm(n, weights, "ln_f", x), "logits")


def _allowed(n: Nodes) -> str:
    """(batch, 1, sequence, past + sequence) bool: a query sees what is real and not after itself."""
    sequence = n.add("Gather", [n.add("Shape", ["input_ids"]), n.integers(1)])
    total = n.add("Gather", [n.add("Shape", ["attention_mask"]), n.integers(1)])
    past = n.add("Sub", [total, sequence])
    keys = n.add("Range", [n.integers(0), total, n.integers(1)])
    queries = n.add("Unsqueeze", [n.add("Range", [past, total, n.integers(1)]), n.integers([1])])
    causal = n.add("LessOrEqual", [keys, queries])
    real = n.add("Cast", ["attention_mask"], to=n.onnx.TensorProto.BOOL)
    return n.add("And", [causal, n.add("Unsqueeze", [real, n.integers([1, 2])])])


def _norm(n: Nodes, weights: Any, name: str, x: str) -> str:
    inputs = [x, weights.vector(f"{name}.weight"), weights.vector(f"{name}.bias")]
    return n.add("LayerNormalization", inputs, axis=-1, epsilon=LAYER_NORM_EPSILON)


def _attention(n: Nodes, weights: Any, config: GPT2Config, layer: int, x: str, allowed: str) -> str:
    heads = n.integers([0, 0, config.num_heads, config.head_dim])
    thirds = n.add("Split", [weights.linear(f"h.{layer}.attn.c_attn", x)], outputs=3, axis=-1, num_outputs=3)
    q, k, v = (n.add("Transpose", [n.add("Reshape", [part, heads])], perm=[0, 2, 1, 3]) for part in thirds)
    past = f"past_key_values.{layer}"
    k = n.add("Concat", [f"{past}.key", k], name=f"present.{layer}.key", axis=2)
    v = n.add("Concat", [f"{past}.value", v], name=f"present.{layer}.value", axis=2)
    scale = n.constant(np.float32(1.0 / math.sqrt(config.head_dim)))
    scores = n.add("MatMul", [n.add("Mul", [q, scale]), n.add("Transpose", [k], perm=[0, 1, 3, 2])])
    # The least number, not minus infinity: a padding query sees nothing, and must not become 0 / 0.
    scores = n.add("Where", [allowed, scores, n.constant(np.finfo(np.float32).min)])
    z = n.add("MatMul", [n.add("Softmax", [scores], axis=-1), v])
    joined = n.add("Reshape", [n.add("Transpose", [z], perm=[0, 2, 1, 3]), n.integers([0, 0, config.d_model])])
    return weights.linear(f"h.{layer}.attn.c_proj", joined)


def _interface(onnx: Any, config: GPT2Config) -> tuple[list[Any], list[Any]]:
    def info(name: str, kind: int, *shape: str | int) -> Any:
        return onnx.helper.make_tensor_value_info(name, kind, shape)

    integer, real = onnx.TensorProto.INT64, onnx.TensorProto.FLOAT
    inputs = [
        info("input_ids", integer, "batch_size", "sequence_length"),
        info("attention_mask", integer, "batch_size", "total_sequence_length"),
        info("position_ids", integer, "batch_size", "sequence_length"),
    ]
    outputs = [info("logits", real, "batch_size", "sequence_length", config.vocab_size)]
    heads, dim = config.num_heads, config.head_dim
    for layer in range(config.num_layers):
        for part in ("key", "value"):
            past = info(f"past_key_values.{layer}.{part}", real, "batch_size", heads, "past_sequence_length", dim)
            present = info(f"present.{layer}.{part}", real, "batch_size", heads, "total_sequence_length", dim)
            inputs.append(past)
            outputs.append(present)
    return inputs, outputs


def _library() -> Any:
    try:
        import onnx
    except ImportError as error:
        raise MissingExtraError(
            "ONNX needs the package onnx; install it with: pip install 'gpt2-from-scratch[export]'"
        ) from error
    return onnx
