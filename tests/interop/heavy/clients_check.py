"""LangChain and lm-evaluation-harness against a running server: URL MODEL_NAME TOKENIZER CONTEXT TEXTS.jsonl."""

import json
import sys
from importlib.metadata import version

from langchain_openai import ChatOpenAI, OpenAI
from lm_eval import simple_evaluate

url, name, tokenizer, context, texts = sys.argv[1:]
options = {"base_url": f"{url}/v1", "api_key": "none", "model": name, "max_retries": 0}
plain = OpenAI(**options, max_tokens=20, temperature=0)
chat = ChatOpenAI(**options, max_tokens=20, temperature=0)
prompt = "Once upon a time"
found = {
    "versions": {package: version(package) for package in ("langchain-openai", "lm_eval")},
    "invoke": plain.invoke(prompt),
    "stream": "".join(plain.stream(prompt)),
    "batch": plain.batch([prompt, "One day"]),
    "chat": chat.invoke(prompt).content,
    "chat stream": "".join(str(piece.content) for piece in chat.stream(prompt)),
}
task = {
    "task": "local_pairs",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": texts}},
    "output_type": "multiple_choice",
    "test_split": "test",
    "doc_to_text": "{{start}}",
    "doc_to_choice": "{{ends}}",
    "doc_to_target": 0,
    "target_delimiter": "",
    "metric_list": [{"metric": "acc"}],
}
arguments = f"model={name},base_url={url}/v1/completions,tokenizer={tokenizer},max_length={context},num_concurrent=4"
results = simple_evaluate(
    model="local-completions", model_args=arguments, tasks=[task], bootstrap_iters=0, log_samples=True
)  # fmt: skip
found["scores"] = [
    [[float(value), bool(greedy)] for value, greedy in sample["filtered_resps"]]
    for sample in sorted(results["samples"]["local_pairs"], key=lambda sample: sample["doc_id"])
]
print(json.dumps(found))
