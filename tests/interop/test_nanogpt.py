"""nanoGPT's checkpoints: built here in their documented form, from a model of torch.nn layers as nanoGPT has it."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpt2 import GPT2, Tokenizer, load
from gpt2.cli import main
from gpt2.errors import CheckpointError, ConfigError
from gpt2.interop.importing import import_model
from gpt2.interop.nanogpt import gelu_difference, model_of
from gpt2.interop.parity import log_probabilities

SHAPE = {"n_layer": 2, "n_head": 4, "n_embd": 64, "block_size": 48, "vocab_size": 640, "dropout": 0.1}
IDS = torch.tensor([[5, 6, 7, 300, 599, 0, 42, 17]])


class Norm(nn.Module):
    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width, bias=bias), nn.Linear(width, width, bias=bias)
        self.register_buffer("bias", torch.tril(torch.ones(48, 48)).view(1, 1, 48, 48))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.c_attn(x).chunk(3, dim=2))
        scores = q @ k.mT / math.sqrt(q.shape[-1])
        hidden = self.bias[:, :, : x.shape[1], : x.shape[1]] == 0
        pattern = scores.masked_fill(hidden, -math.inf).softmax(-1)
        return self.c_proj((pattern @ v).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    def __init__(self, width: int, heads: int, bias: bool, approximate: str) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = Norm(width, bias), Norm(width, bias)
        self.attn = Attention(width, heads, bias)
        self.mlp = nn.ModuleDict(
            {"c_fc": nn.Linear(width, 4 * width, bias=bias), "c_proj": nn.Linear(4 * width, width, bias=bias)}
        )
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x)), approximate=self.approximate))


class NanoGPT(nn.Module):
    """The function that a nanoGPT checkpoint stands for; its GELU is exact unless the test wants the other."""

    def __init__(self, bias: bool, approximate: str = "none") -> None:
        super().__init__()
        width, heads = SHAPE["n_embd"], SHAPE["n_head"]
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(SHAPE["vocab_size"], width),
                "wpe": nn.Embedding(SHAPE["block_size"], width),
                "h": nn.ModuleList(Layer(width, heads, bias, approximate) for _ in range(SHAPE["n_layer"])),
                "ln_f": Norm(width, bias),
            }
        )
        self.lm_head = nn.Linear(width, SHAPE["vocab_size"], bias=False)
        self.lm_head.weight = self.transformer["wte"].weight

    def forward(self, ids: Tensor) -> Tensor:
        parts = self.transformer
        x = parts["wte"](ids) + parts["wpe"](torch.arange(ids.shape[1]))
        for layer in parts["h"]:
            x = layer(x)
        return self.lm_head(parts["ln_f"](x))


def made(bias: bool, approximate: str = "none") -> NanoGPT:
    torch.manual_seed(1)
    model = NanoGPT(bias, approximate)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter) + (parameter.mean() == 1).float())
    return model.eval()


def checkpoint(model: NanoGPT, path: Path, prefix: str = "", **changes: object) -> Path:
    state = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    bias = model.transformer["ln_f"].bias is not None
    content = {
        "model": state, "optimizer": {"state": {}, "param_groups": [{"lr": 1e-3}]},
        "model_args": {**SHAPE, "bias": bias, **changes}, "iter_num": 5, "best_val_loss": torch.tensor(3.1),
        "config": {"out_dir": "out", "learning_rate": 6e-4},
    }  # fmt: skip
    torch.save(content, path)
    return path


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
@pytest.mark.parametrize("bias", [True, False])
def test_logits_are_nanogpts_up_to_its_gelu(bias: bool, prefix: str, tmp_path: Path) -> None:
    """With the tanh form in both the logits are equal; with nanoGPT's own they differ by what is reported."""
    path = checkpoint(made(bias), tmp_path / "ckpt.pt", prefix)
    import_model(str(path), out=tmp_path / "out")
    model = GPT2.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        ours, tanh, exact = (m(IDS) for m in (model, made(bias, "tanh"), made(bias)))
    torch.testing.assert_close(ours, tanh, atol=1e-4, rtol=1e-5)
    p, q = log_probabilities(exact), log_probabilities(ours)
    kl, largest = gelu_difference(model, IDS.tolist())
    assert kl == pytest.approx((p.exp() * (p - q)).sum(-1).mean().item(), rel=0.05)
    assert largest == pytest.approx((p - q).abs().max().item(), rel=0.05)
    assert largest > 1e-4
    assert model.config.dropout == 0.1
    if not bias:
        assert not any(p.any() for n, p in model.named_parameters() if n.endswith(".bias"))


def test_the_command_names_the_difference(
    tmp_path: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    path = checkpoint(made(bias=False), tmp_path / "ckpt.pt")
    assert main(["import", str(path), "--out", str(tmp_path / "a")]) == 0
    text = capsys.readouterr().out
    assert "2 layers, d_model 64" in text
    assert "nanoGPT computes GELU exactly, GPT-2 by the tanh form: mean KL" in text
    assert "without a tokenizer" in text
    assert "verified: by transformers" in text
    tokenizer.save_pretrained(tmp_path / "tok")
    assert main(["import", str(path), "--out", str(tmp_path / "b"), "--tokenizer", str(tmp_path / "tok")]) == 0
    assert "without a tokenizer" not in capsys.readouterr().out
    model, its_tokenizer = load(tmp_path / "b")
    assert model.config.eos_token_id == its_tokenizer.eos_token_id == 0
    assert main(["generate", str(path), "x"]) == 2
    assert f"gpt2 import {path} --out FOLDER" in capsys.readouterr().err


def test_damaged_checkpoints_are_named(tmp_path: Path) -> None:
    model = made(bias=True)
    for change, error, message in (
        ({"n_layer": 3}, CheckpointError, r"missing transformer\.h\.2"),
        ({"n_layer": 10**9}, ConfigError, "num_layers must lie between"),
        ({"n_embd": "64"}, ConfigError, "d_model must be an integer"),
        ({"vocab_size": 641}, CheckpointError, r"wte\.weight has the shape \(640, 64\)"),
        ({"bias": False}, CheckpointError, "say bias=False, but it has"),
    ):
        with pytest.raises(error, match=message):
            import_model(str(checkpoint(model, tmp_path / "ckpt.pt", **change)), out=tmp_path / "out")
    with pytest.raises(ConfigError, match="lack vocab_size, block_size"):
        model_of({"model": {}, "model_args": {"n_embd": 1, "n_layer": 1, "n_head": 1}}, Path("x.pt"))
    with pytest.raises(ConfigError, match="lack"):
        model_of({"model": {}, "model_args": [1]}, Path("x.pt"))
    with pytest.raises(CheckpointError, match="does not hold a state dict"):
        model_of({"model": [1], "model_args": SHAPE}, Path("x.pt"))
    assert not (tmp_path / "out").exists()
