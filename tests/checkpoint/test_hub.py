"""`hf:owner/name`: fetched with the Hub's own client from a server here, in every form, and pinned to a commit."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import torch
from transformers import GPT2LMHeadModel

from gpt2 import GPT2, GPT2Config, Tokenizer, load
from gpt2.checkpoint.hub import pinned
from gpt2.errors import CheckpointError
from tests.conftest import randomize

SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A server that speaks the part of the Hub's protocol that downloading needs: (address, folder of its files)."""
    files = tmp_path / "served"
    files.mkdir()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            if path.startswith(("/api/models/owner/tiny/revision/", "/api/models/owner/tiny/tree/")):
                names = [{"rfilename": p.name, "type": "file", "path": p.name, "size": p.stat().st_size, "oid": "0" * 40}
                         for p in files.iterdir()]  # fmt: skip
                content = names if "/tree/" in path else {"id": "owner/tiny", "sha": SHA, "siblings": names}
                self.reply(200, json.dumps(content).encode(), body, "application/json")
            elif path.startswith("/owner/tiny/resolve/") and (files / path.rsplit("/", 1)[1]).is_file():
                self.reply(200, (files / path.rsplit("/", 1)[1]).read_bytes(), body, "application/octet-stream")
            else:
                self.reply(404, b'{"error": "not found"}', body, "application/json")

        def reply(self, status: int, content: bytes, body: bool, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{abs(hash(content)):x}"')
            self.send_header("X-Repo-Commit", SHA)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", files
    server.shutdown()
    server.server_close()


SCRIPT = """
import sys, torch
from gpt2 import load
from gpt2.checkpoint.hub import pinned
from gpt2.errors import CheckpointError
assert pinned("hf:owner/tiny") == f"hf:owner/tiny@{sys.argv[1]}"
model, tokenizer = load("hf:owner/tiny")
print(model(torch.tensor([[5, 6, 7]])).sum().item())
assert load(pinned("hf:owner/tiny@main"))[0].config == model.config
try:
    load("hf:owner/absent")
except CheckpointError as error:
    assert "cannot fetch hf:owner/absent" in str(error)
else:
    sys.exit("loaded what is not there")
"""


@pytest.mark.parametrize("form", ["sharded safetensors", "bin"])
def test_the_hub(form: str, hub: tuple[str, Path], tmp_path: Path) -> None:
    """A process of its own: the client reads its settings when it is imported."""
    pytest.importorskip("huggingface_hub")
    address, files = hub
    config = GPT2Config(vocab_size=300, context_length=16, d_model=16, num_layers=2, num_heads=2, eos_token_id=0)
    model = randomize(GPT2(config))
    if form == "bin":
        torch.save(dict(model.state_dict()), files / "pytorch_model.bin")
        model.save_pretrained(tmp_path / "c")
        (tmp_path / "c" / "config.json").rename(files / "config.json")
    else:
        model.save_pretrained(tmp_path / "c")
        GPT2LMHeadModel.from_pretrained(tmp_path / "c").save_pretrained(files, max_shard_size="20KB")
    Tokenizer.train(["the cat sat on the mat. " * 20], 280, allow_fewer=True).save_pretrained(files)
    environment = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, SHA], capture_output=True, text=True, check=False, cwd=tmp_path,
        env={**kept, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(model(torch.tensor([[5, 6, 7]])).sum().item(), rel=1e-5)


def test_without_a_network_one_sentence_says_so(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "home")}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-m", "gpt2", "import", "hf:owner/tiny"], capture_output=True, text=True, check=False,
        cwd=tmp_path, env={**kept, **nowhere},
    )  # fmt: skip
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("gpt2: error: cannot fetch hf:owner/tiny: the Hugging Face Hub is out of reach")
    assert list(tmp_path.iterdir()) in ([], [tmp_path / "home"])


@pytest.mark.parametrize("name", ["hf:", "hf:/", "hf:owner/", "hf:a/b/c", "hf:owner/name@", "hf:owner name"])
def test_what_is_no_name_is_told_with_the_form_of_one(name: str) -> None:
    for take in (load, pinned):
        with pytest.raises(CheckpointError, match=rf"^'{name}' names no model .*: write hf:owner/name, or"):
            take(name)
