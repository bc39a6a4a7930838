"""`gpt2 serve` as a process: its address, its log, its end."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpt2.cli import main, serve
from gpt2.serving.served import ServedModel


@pytest.fixture(scope="module")
def folder(served: ServedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models") / "mine"
    served.model.save_pretrained(made)
    served.tokenizer.save_pretrained(made)
    return made


@pytest.fixture
def process(folder: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """(the process, its port)."""
    command = [sys.executable, "-m", "gpt2", "serve", str(folder), "--port", "0", "--slots", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        try:
            port = None
            for line in started.stdout:
                if found := re.match(r"http://127\.0\.0\.1:(\d+)/v1", line):
                    port = int(found[1])
                    break
            assert port is not None
            yield started, port
        finally:
            started.kill()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM that a process can answer")
def test_a_signal_lets_what_runs_finish(process: tuple[subprocess.Popen[str], int]) -> None:
    started, port = process
    # What a client sends must not write into the log's terminal; who leaves in the middle is no fault of the server's.
    for request in (
        b"GET /\x1b[31m HTTP/1.1\r\n\r\n",
        b"GET /%0a%1b[31mred HTTP/1.1\r\nHost: a\r\nUser-Agent: \x1b[2J\r\n\r\n",
        b'POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"prompt',
        b'POST /api/tokens HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"te',
    ):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):
                pass
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    fields = {"model": "mine", "prompt": "One", "max_tokens": 90, "n": 64, "ignore_eos": True, "stream": True}
    client.request("POST", "/v1/completions", json.dumps(fields))
    response = client.getresponse()
    assert response.status == 200
    started.send_signal(signal.SIGTERM)
    body = response.read()
    client.close()
    assert body.endswith(b"data: [DONE]\n\n")
    assert body.count(b'"finish_reason": "length"') == 64
    out, err = started.communicate(timeout=60)
    assert started.returncode == 0, err
    assert "\x1b" not in out + err
    assert "Traceback" not in err


def test_what_is_missing_is_said_in_a_line(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "find_spec", lambda name: None if name == "uvicorn" else object())
    assert main(["serve", str(folder)]) == 2
    assert capsys.readouterr().err == (
        "gpt2: error: serving needs uvicorn: pip install 'gpt2-from-scratch[serve]'\n"
    )  # fmt: skip


def test_a_taken_port(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", str(folder), "--port", str(port)]) == 2
    assert f"cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err


def test_the_key_comes_from_the_environment_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setenv("GPT2_API_KEY", "from-there")
    monkeypatch.setattr("gpt2.serving.server.serve", lambda app, settings: seen.append(settings.api_key) or 0)
    assert main(["serve", str(folder), "--host", "0.0.0.0"]) == 0
    assert seen == ["from-there"]
    assert os.environ["GPT2_API_KEY"] == "from-there"
