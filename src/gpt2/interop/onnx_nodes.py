"""What the ONNX graph is built with: nodes, constants, and weights in 32 bits or in 8."""

from typing import Any

import numpy as np

from gpt2.errors import ConfigError
from gpt2.model import GPT2

BLOCK = 32
"""Weights that share one scale when quantised."""


class Nodes:
    """A graph under construction: values are known by their names."""

    def __init__(self, onnx: Any) -> None:
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._named: dict[tuple[Any, ...], str] = {}

    def add(self, kind: str, inputs: list[str], *, name: str = "", outputs: int = 1, **attributes: Any) -> Any:
        """Append a node; gives the name of its output, or a list of names."""
        base = name or f"{kind}_{len(self.nodes)}"
        names = [base] if outputs == 1 else [f"{base}_{i}" for i in range(outputs)]
        domain = attributes.pop("domain", None)
        self.nodes.append(
            self.onnx.helper.make_node(kind, inputs, names, name=f"node_{base}", domain=domain, **attributes)
        )
        return names[0] if outputs == 1 else names

    def constant(self, value: Any, name: str = "") -> str:
        """Store an array once; gives its name."""
        array = np.asarray(value)
        key = (name,) if name else (array.dtype.str, array.shape, array.tobytes())
        if key not in self._named:
            self._named[key] = name or f"constant_{len(self.constants)}"
            self.constants.append(self.onnx.numpy_helper.from_array(array, self._named[key]))
        return self._named[key]

    def integers(self, value: int | list[int]) -> str:
        """An int64 constant."""
        return self.constant(np.array(value, dtype=np.int64))


class Float32Weights:
    """GPT-2's weights as they are. The embedding is stored once and serves as output too."""

    def __init__(self, nodes: Nodes, model: GPT2) -> None:
        self.n = nodes
        state = model.transformer.named_parameters()
        self.arrays = {name: parameter.detach().float().cpu().numpy() for name, parameter in state}

    def vector(self, name: str) -> str:
        """A bias, or the scale of a norm."""
        return self.n.constant(self.arrays[name], name)

    def embed(self, name: str, ids: str) -> str:
        """Rows of a table."""
        return self.n.add("Gather", [self.vector(f"{name}.weight"), ids])

    def linear(self, name: str, x: str) -> str:
        """x W + b."""
        product = self.n.add("MatMul", [x, self.vector(f"{name}.weight")])
        return self.n.add("Add", [product, self.vector(f"{name}.bias")])

    def unembed(self, x: str, output: str) -> str:
        """Products with every row of the embedding."""
        table = self.n.add("Transpose", [self.vector("wte.weight")], perm=[1, 0])
        return self.n.add("MatMul", [x, table], name=output)


class QuantisedWeights(Float32Weights):
    """Matrices as unsigned bytes around 128 in blocks of 32 inputs with one scale each, as llama.cpp's q8_0.

    onnxruntime's operator MatMulNBits multiplies with them; the embedding, again stored once, is unpacked by row.
    Norms, biases and positions stay float32.
    """

    def __init__(self, nodes: Nodes, model: GPT2) -> None:
        super().__init__(nodes, model)
        if model.config.d_model % BLOCK:
            raise ConfigError(
                f"8-bit ONNX needs d_model to be a multiple of {BLOCK}, this model has {model.config.d_model}"
            )

    def embed(self, name: str, ids: str) -> str:
        """Rows of a table, unpacked."""
        if name == "wpe":
            return super().embed(name, ids)
        integers, scales = self._packed("wte.weight", self.arrays["wte.weight"])
        rows = self.n.add("Cast", [self.n.add("Gather", [integers, ids])], to=self.n.onnx.TensorProto.FLOAT)
        table = self.arrays["wte.weight"]
        shaped = self.n.constant(np.array([table.shape[0], -1, 1], dtype=np.int64))
        per_row = self.n.add("Gather", [self.n.add("Reshape", [scales, shaped]), ids])
        centred = self.n.add("Sub", [rows, self.n.constant(np.float32(128.0))])
        unpacked = self.n.add("Mul", [centred, per_row])
        return self.n.add("Reshape", [unpacked, self.n.integers([0, 0, table.shape[1]])])

    def linear(self, name: str, x: str) -> str:
        """x W + b."""
        weight = np.ascontiguousarray(self.arrays[f"{name}.weight"].T)
        return self.n.add("Add", [self._product(f"{name}.weight", weight, x, ""), self.vector(f"{name}.bias")])

    def unembed(self, x: str, output: str) -> str:
        """Products with every row of the embedding."""
        return self._product("wte.weight", self.arrays["wte.weight"], x, output)

    def _product(self, name: str, weight: np.ndarray, x: str, output: str) -> str:
        rows, columns = weight.shape
        sizes = {"N": rows, "K": columns, "bits": 8, "block_size": BLOCK}
        return self.n.add("MatMulNBits", [x, *self._packed(name, weight)], name=output, domain="com.microsoft", **sizes)

    def _packed(self, name: str, weight: np.ndarray) -> tuple[str, str]:
        """(out, in) -> unsigned bytes (out, in / 32, 32) and scales (out * in / 32)."""
        blocks = weight.reshape(weight.shape[0], -1, BLOCK)
        scales = np.abs(blocks).max(axis=-1, keepdims=True) / 127.0
        steps = np.divide(blocks, scales, out=np.zeros_like(blocks), where=scales > 0)
        integers = (np.rint(steps) + 128.0).astype(np.uint8)
        return self.n.constant(integers, f"{name}.q8"), self.n.constant(scales.reshape(-1), f"{name}.scales")
