"""LangChain and lm-evaluation-harness speak to the real server; run by `make interop`."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

from gpt2 import GPT2, Tokenizer
from gpt2.data import iter_documents
from gpt2.interop.parity import our_logits
from gpt2.serving.served import ServedModel
from tests.interop.heavy.conftest import prepared
from tests.serving.conftest import running

pytestmark = pytest.mark.heavy
HERE = Path(__file__).parent


def test_langchain_and_the_evaluation_harness(trained: tuple[GPT2, Tokenizer], tmp_path: Path) -> None:
    model, tokenizer = trained
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    stories = [story.split()[:30] for _, story in zip(range(12), iter_documents(), strict=False)]
    # Parted before a space, where the harness parts too: it moves blanks from the end of a start to what follows.
    pairs = [
        {"start": " ".join(words[:8]), "ends": [" " + " ".join(rest) for rest in (words[8:], words[:7:-1])]}
        for words in stories
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    context = model.config.context_length
    served = ServedModel("mine", None, model, tokenizer, torch.device("cpu"))
    with running(served) as server:
        arguments = [server.url, "mine", tmp_path / "tokenizer", context, tmp_path / "pairs.jsonl"]
        command = [str(prepared("GPT2_HEAVY_PYTHON")), str(HERE / "clients_check.py"), *map(str, arguments)]
        offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **offline})
        assert done.returncode == 0, done.stderr[-3000:]
        found = json.loads(done.stdout.splitlines()[-1])
        greedy = server.complete(prompt="Once upon a time", max_tokens=20, temperature=0)["choices"][0]["text"]
    assert {found[kind] for kind in ("invoke", "stream", "chat", "chat stream")} == {greedy}
    assert found["batch"][0] == greedy
    for pair, scores in zip(pairs, found["scores"], strict=True):
        for end, (value, is_greedy) in zip(pair["ends"], scores, strict=True):
            assert (value, is_greedy) == exact(model, tokenizer, pair["start"], end)
    print(f"\n{found['versions']}: texts and {2 * len(pairs)} scores equal", end="")


def exact(model: GPT2, tokenizer: Tokenizer, start: str, end: str) -> tuple[object, bool]:
    """ln p of `end` after `start`, and whether each of its tokens is the likeliest, by the model itself."""
    before, ids = tokenizer.encode(start), tokenizer.encode(start + end)
    logits = our_logits(model, ids[:-1]).double()[len(before) - 1 :]
    wanted = torch.tensor(ids[len(before) :])
    taken = logits.log_softmax(-1).gather(1, wanted.unsqueeze(1)).sum().item()
    return pytest.approx(taken, abs=1e-3), bool((logits.argmax(-1) == wanted).all())
