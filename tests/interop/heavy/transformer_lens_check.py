"""Open a folder in TransformerLens and store what it computes: FOLDER PROMPTS.json OUT.npz."""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from transformer_lens.model_bridge import TransformerBridge

folder, prompts, out = sys.argv[1:]
bridge = TransformerBridge.boot_transformers(folder, device="cpu")
found = {}
with torch.inference_mode():
    for number, ids in enumerate(json.loads(Path(prompts).read_text())):
        logits, cache = bridge.run_with_cache(torch.tensor([ids]))
        found[f"logits{number}"] = logits[0].numpy()
        found[f"pattern{number}"] = cache["blocks.1.attn.hook_pattern"][0].numpy()
np.savez(out, **found)
print(json.dumps({"version": version("transformer_lens")}))
