"""Jobs of TransformerLens on the model of a folder; run by its own Python, a JSON object per line in and out.

The first line has the inputs: "ids" of a text, "target" and "against" (ids), "documents" of one length, "threads".
Each further line names a "job" and how many "rounds"; the answer has what it found and the mean seconds.
"""

import json
import sys
import time
from pathlib import Path

import torch
from transformer_lens.model_bridge import TransformerBridge

sys.path.append(str(Path(__file__).parent))  # at the end: this folder has a transformer_lens.py of its own
from transformer_lens_ablation import ablation

inputs = json.loads(sys.stdin.readline())
torch.set_num_threads(inputs["threads"])
bridge = TransformerBridge.boot_transformers(sys.argv[1], device="cpu")
ids, documents = torch.tensor([inputs["ids"]]), torch.tensor(inputs["documents"])
following = ids[:, 1:]


def run():
    return bridge.run_with_cache(ids)


def lens():
    """Every reading at every position: the five likeliest tokens, and the rank and chance of the one that follows."""
    _, cache = run()
    top = cache.logit_lens(positions=None, top_k=5, return_type="log_probs")
    real = cache.logit_lens(positions=slice(0, -1), targets=following, return_type="log_probs")
    return top, real


def attribution():
    """A difference of two logits at the last position, by head, MLP and embedding."""
    _, cache = run()
    scaled = cache.get_full_resid_decomposition(apply_ln=True, expand_neurons=False, pos_slice=-1)[:, 0]
    gamma = bridge.ln_final.weight
    direction = bridge.W_U[:, inputs["target"]] - bridge.W_U[:, inputs["against"]]
    return scaled @ (gamma * direction)


def numbers(job, found):
    """What is compared: the same of every tool."""
    if job == "run":
        return found[0][0, -1]
    if job == "lens":
        return torch.cat([found[0].values.exp().flatten(), found[1].values.flatten()])
    parts = bridge.cfg.n_layers * (bridge.cfg.n_heads + 1)
    return found[:parts] if job == "attribution" else found


jobs = {"run": run, "lens": lens, "attribution": attribution, "ablation": lambda: ablation(bridge, documents)}
print("{}", flush=True)
with torch.inference_mode():
    for line in sys.stdin:
        asked = json.loads(line)
        began = time.perf_counter()
        for _ in range(asked["rounds"]):
            found = jobs[asked["job"]]()
        seconds = (time.perf_counter() - began) / asked["rounds"]
        answer = numbers(asked["job"], found).flatten().tolist()
        print(json.dumps({"seconds": seconds, "answer": answer}), flush=True)
