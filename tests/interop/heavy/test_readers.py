"""A really trained model in every program that it was exported for; run by `make interop`.

Each program generates by its own loop and its own cache, as its users do. The transcripts must be equal.
"""

import json
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import GPT2LMHeadModel

from gpt2 import GPT2, Tokenizer
from gpt2.data import iter_documents
from gpt2.interop.export import Exported
from gpt2.interop.parity import our_logits
from gpt2.interop.probes import strings
from tests.interop.heavy.conftest import HERE, NEW_TOKENS, heavy

pytestmark = pytest.mark.heavy


def node(script: str, *arguments: object) -> object:
    command = ["node", str(HERE / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_every_export_was_verified(exports: dict[str, Exported]) -> None:
    assert all(not done.unverified and done.verified for done in exports.values())
    (q8,) = exports["q8_0"].verified.values()
    assert q8.reader.startswith("llama.cpp")
    assert q8.mean_kl < 0.01
    assert all(
        parity.num_strings >= 1000 for to, done in exports.items() if to != "pt" for parity in done.verified.values()
    )


def test_transformers_writes_the_same(
    exports: dict[str, Exported], prompts: list[list[int]], greedy: list[list[int]]
) -> None:
    model = GPT2LMHeadModel.from_pretrained(exports["hf"].folder).eval()
    for ids, ours in zip(prompts, greedy, strict=True):
        output = model.generate(torch.tensor([ids]), max_new_tokens=NEW_TOKENS, do_sample=False)
        assert output[0, len(ids) :].tolist() == ours


def test_onnxruntime_writes_the_same(
    exports: dict[str, Exported], trained: tuple[GPT2, Tokenizer], prompts: list[list[int]], greedy: list[list[int]]
) -> None:
    session = onnxruntime.InferenceSession(str(exports["onnx"].folder / "onnx" / "model.onnx"))
    past_inputs = session.get_inputs()[3:]
    for ids, ours in zip(prompts, greedy, strict=True):
        past = {item.name: np.zeros((1, item.shape[1], 0, item.shape[3]), np.float32) for item in past_inputs}
        written, new = [], ids
        while len(written) < NEW_TOKENS and trained[1].eos_token_id not in written:
            done = len(ids) + len(written)
            feeds = {
                "input_ids": np.array([new]),
                "attention_mask": np.ones((1, done), np.int64),
                "position_ids": np.arange(done - len(new), done)[None],
            }
            logits, *present = session.run(None, {**feeds, **past})
            past = dict(zip(past, present, strict=True))
            new = [int(np.asarray(logits)[0, -1].argmax())]
            written += new
        assert written == ours


def test_llama_cpp_writes_the_same(
    exports: dict[str, Exported], trained: tuple[GPT2, Tokenizer], modules: Path, prompts: list[list[int]],
    greedy: list[list[int]], tmp_path: Path,
) -> None:  # fmt: skip
    question = tmp_path / "question.json"
    question.write_text(json.dumps({"prompts": prompts, "count": NEW_TOKENS, "eos": trained[1].eos_token_id}))
    (file,) = exports["f32"].verified
    assert node("llama_cpp_greedy.mjs", modules, exports["f32"].folder / file, question) == greedy


def test_transformers_js_writes_and_tokenises_the_same(
    exports: dict[str, Exported], trained: tuple[GPT2, Tokenizer], modules: Path, prompts: list[list[int]],
    greedy: list[list[int]], tmp_path: Path,
) -> None:  # fmt: skip
    texts = strings()
    (tmp_path / "question.json").write_text(json.dumps({"prompts": prompts, "count": NEW_TOKENS, "texts": texts}))
    answer = node("transformers_js.mjs", modules, exports["onnx"].folder, tmp_path / "question.json")
    assert isinstance(answer, dict)
    different = [text for text, ids in zip(texts, answer["ids"], strict=True) if trained[1].encode(text) != ids]
    same_q8 = sum(a == b for a, b in zip(answer["q8"], greedy, strict=True))
    print(f"\ntransformers.js: {len(texts) - len(different)} of {len(texts)} strings alike; "
          f"q8 transcripts equal {same_q8} of {len(greedy)}", end="")  # fmt: skip
    assert answer["fp32"] == greedy
    assert len(answer["q8"]) == len(greedy)
    assert different == []


def test_transformer_lens_opens_the_folder(
    exports: dict[str, Exported], trained: tuple[GPT2, Tokenizer], prompts: list[list[int]], tmp_path: Path
) -> None:
    (tmp_path / "prompts.json").write_text(json.dumps(prompts[:4]))
    answer = heavy("transformer_lens_check.py", exports["hf"].folder, tmp_path / "prompts.json", tmp_path / "out.npz")
    found = np.load(tmp_path / "out.npz", allow_pickle=False)
    for number, ids in enumerate(prompts[:4]):
        np.testing.assert_allclose(found[f"logits{number}"], our_logits(trained[0], ids).numpy(), atol=2e-4)
        values = {}
        trained[0](torch.tensor([ids]), tap=lambda name, value, kept=values: kept.setdefault(name, value))
        pattern = values["blocks.1.attn.hook_pattern"][0].detach().numpy()
        np.testing.assert_allclose(found[f"pattern{number}"], pattern, atol=1e-5)
    print(f"\nTransformerLens {answer['version']}: logits and attention patterns equal", end="")


def test_lm_evaluation_harness_gives_our_perplexity(
    exports: dict[str, Exported], trained: tuple[GPT2, Tokenizer], tmp_path: Path
) -> None:
    """Stories that fit into the context, so that the windows of the two do not matter; the harness predicts no end."""
    model, tokenizer = trained
    stories = [s for s in iter_documents() if len(tokenizer.encode(s)) < model.config.context_length - 1][-100:]
    (tmp_path / "stories.jsonl").write_text("".join(json.dumps({"text": story}) + "\n" for story in stories))
    answer = heavy("lm_eval_check.py", exports["hf"].folder, tmp_path / "stories.jsonl")
    loss, num_bytes = 0.0, 0
    for story in stories:
        ids = [tokenizer.eos_token_id, *tokenizer.encode(story)]
        logits = our_logits(model, ids[:-1]).double()
        chosen = logits.gather(1, torch.tensor(ids[1:]).unsqueeze(1)).squeeze(1)
        loss += (logits.logsumexp(-1) - chosen).sum().item()
        num_bytes += len(story.encode())
    ours = loss / num_bytes / np.log(2)
    print(f"\nlm-eval {answer['version']}: {answer['bits_per_byte']:.6f} bits per byte, ours {ours:.6f}", end="")
    assert 2 ** answer["bits_per_byte"] == pytest.approx(2**ours, rel=0.005)
