"""Our model is Hugging Face's GPT-2: logits, gradients, names, in both directions."""

import random
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config as HFConfig
from transformers import GPT2LMHeadModel

from gpt2 import GPT2, GPT2Config
from tests.conftest import randomize

KERNELS = ["fused", "reference"]


def random_config(seed: int) -> GPT2Config:
    draw = random.Random(seed)
    heads = draw.choice([1, 2, 3, 4])
    return GPT2Config(
        vocab_size=draw.randint(5, 300),
        context_length=draw.randint(2, 40),
        d_model=heads * draw.choice([2, 7, 8, 16]),
        num_layers=draw.randint(1, 4),
        num_heads=heads,
    )


def ids_for(config: GPT2Config, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(config.vocab_size, (3, config.context_length), generator=generator)


@pytest.mark.parametrize("seed", range(32))
def test_saved_model_loads_in_transformers_with_equal_logits(seed: int, tmp_path: Path) -> None:
    config = random_config(seed)
    model = randomize(GPT2(config, KERNELS[seed % 2]), seed, std=0.1).eval()
    model.save_pretrained(tmp_path)
    theirs, report = GPT2LMHeadModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    ids = ids_for(config, seed)
    with torch.no_grad():
        torch.testing.assert_close(model(ids), theirs.eval()(ids).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("seed", range(32))
def test_transformers_model_loads_here_with_equal_logits(seed: int, tmp_path: Path) -> None:
    config = random_config(1000 + seed)
    torch.manual_seed(seed)
    theirs = GPT2LMHeadModel(HFConfig(**config.to_hf())).eval()
    theirs.save_pretrained(tmp_path)
    model = GPT2.from_pretrained(tmp_path, KERNELS[seed % 2])
    assert (model.config.d_model, model.config.num_layers) == (config.d_model, config.num_layers)
    ids = ids_for(config, seed)
    with torch.no_grad():
        torch.testing.assert_close(model(ids), theirs(ids).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("seed", range(8))
def test_gradients_equal_those_of_transformers(seed: int, kernels: str, tmp_path: Path) -> None:
    config = random_config(2000 + seed)
    model = randomize(GPT2(config, kernels), seed, std=0.1)
    model.save_pretrained(tmp_path)
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path)
    ids = ids_for(config, seed)
    theirs(ids, labels=ids).loss.backward()
    count = ids.shape[0] * (ids.shape[1] - 1)
    x = model.hidden(ids)[:, :-1].reshape(count, -1)
    loss = model.kernels.linear_cross_entropy(x, model.transformer.wte.weight, ids[:, 1:].reshape(-1)) / count
    loss.backward()
    grads = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            parameter.grad, grads[name], atol=1e-4, rtol=1e-4, msg=lambda text, n=name: f"{n}: {text}"
        )


def test_parameter_names_are_those_of_transformers() -> None:
    config = random_config(5)
    theirs = GPT2LMHeadModel(HFConfig(**config.to_hf()))
    assert [name for name, _ in GPT2(config).named_parameters()] == [name for name, _ in theirs.named_parameters()]


def test_generation_equals_transformers_greedy(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=80, context_length=64, d_model=32, num_layers=2, num_heads=4)
    model = randomize(GPT2(config), 3)
    model.save_pretrained(tmp_path)
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    prompt = torch.tensor([[5, 6, 7], [1, 2, 3]])
    ours = model.generate(prompt, max_new_tokens=50, temperature=0)
    assert torch.equal(ours, theirs.generate(prompt, max_new_tokens=50, do_sample=False, pad_token_id=0))


@pytest.mark.parametrize(
    ("preset", "count"),
    [
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
    ],
)
def test_sizes_of_openai(preset: str, count: int) -> None:
    from gpt2.config import preset_config

    with torch.device("meta"):
        assert GPT2(preset_config(preset)).num_parameters() == count
