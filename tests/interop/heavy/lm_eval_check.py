"""Score texts of a .jsonl file with EleutherAI's harness: FOLDER TEXTS.jsonl."""

import json
import sys
from importlib.metadata import version

from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM

folder, texts = sys.argv[1:]
task = {
    "task": "local_text",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": texts}},
    "output_type": "loglikelihood_rolling",
    "test_split": "test",
    "doc_to_text": "",
    "doc_to_target": "{{text}}",
    "metric_list": [{"metric": "bits_per_byte"}, {"metric": "byte_perplexity"}],
}
model = HFLM(pretrained=folder, device="cpu", dtype="float32", batch_size=8)
results = simple_evaluate(model=model, tasks=[task], bootstrap_iters=0)["results"]["local_text"]
print(json.dumps({"version": version("lm_eval"), "bits_per_byte": results["bits_per_byte,none"]}))
