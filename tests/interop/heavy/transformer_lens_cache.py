"""Every value that TransformerLens caches under a classic name, and its ablations: FOLDER JOB.json OUT.npz."""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformer_lens.model_bridge import TransformerBridge

folder, job, out = sys.argv[1:]
asked = json.loads(Path(job).read_text())
torch.set_num_threads(asked["threads"])
bridge = TransformerBridge.boot_transformers(folder, device="cpu")
ids = torch.tensor([asked["ids"]])
documents = torch.tensor(asked["documents"])


def losses(hooks):
    logits = bridge.run_with_hooks(documents[:, :-1], fwd_hooks=hooks)
    flat = torch.nn.functional.cross_entropy(logits.flatten(0, 1), documents[:, 1:].flatten(), reduction="none")
    return flat.view(len(documents), -1).sum(dim=1)


def without(head):
    def hook(value, hook):
        value = value.view(*value.shape[:2], bridge.cfg.n_heads, -1).clone()
        value[:, :, head] = 0.0
        return value

    return hook


def ablations():
    base = losses([])
    rows = [
        [(losses([(f"blocks.{layer}.attn.hook_z", without(head))]) - base).sum() for head in range(bridge.cfg.n_heads)]
        for layer in range(bridge.cfg.n_layers)
    ]
    return torch.tensor(rows) / documents[:, 1:].numel()


with torch.inference_mode():
    _, cache = bridge.run_with_cache(ids)
    found = {name: cache[name].numpy() for name in asked["names"]}
    found["ablation"] = ablations().numpy()
np.savez(out, **found)
print("{}")
