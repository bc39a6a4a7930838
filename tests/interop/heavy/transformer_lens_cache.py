"""Every value that TransformerLens caches under a classic name, and its ablations: FOLDER JOB.json OUT.npz."""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformer_lens.model_bridge import TransformerBridge

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks" / "peers"))
from transformer_lens_ablation import ablation

folder, job, out = sys.argv[1:]
asked = json.loads(Path(job).read_text())
torch.set_num_threads(asked["threads"])
bridge = TransformerBridge.boot_transformers(folder, device="cpu")
ids = torch.tensor([asked["ids"]])
documents = torch.tensor(asked["documents"])


with torch.inference_mode():
    _, cache = bridge.run_with_cache(ids)
    found = {name: cache[name].numpy() for name in asked["names"]}
    found["ablation"] = ablation(bridge, documents).numpy()
np.savez(out, **found)
print("{}")
