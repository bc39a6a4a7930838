"""A small run, its server on a socket, and a browser that reaches nothing else."""

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

import gpt2
from gpt2.serving.app import create_app
from gpt2.serving.served import ServedModel
from gpt2.serving.settings import ServeSettings


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few steps, with snapshots, metrics and samples."""
    folder = tmp_path_factory.mktemp("page") / "tiny"
    gpt2.train(
        [], out=str(folder), steps=12, fraction=0.05, vocab_size=512, context_length=64, d_model=32, num_layers=2,
        num_heads=2, batch_size=4, evals=2, snapshots=4, compile="off", dtype="float32", progress=False,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def served(run_folder: Path) -> ServedModel:
    return ServedModel.load(str(run_folder), "cpu")


@pytest.fixture(scope="session")
def address(served: ServedModel) -> Iterator[str]:
    """A real server on a free port of the loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(create_app(served, ServeSettings(port=port)), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}"
        server.should_exit = True
        thread.join()
