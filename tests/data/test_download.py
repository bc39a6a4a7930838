"""A real server on this machine plays the Hub: redirects, ranges, and every way to fail."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gpt2.data.download import describe, download, fetch
from gpt2.errors import DataError, UserError

CONTENT = bytes(range(256)) * 4000  # one megabyte


class Hub(ThreadingHTTPServer):
    """What it serves, and how it misbehaves."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.served: bytes | None = None  # instead of the content that was promised
        self.close_after: int | None = None  # bytes of each answer
        self.ranges = True
        self.status = 0
        self.delay = 0.0
        self.stall = 0.0
        self.size_header = True
        self.requests: list[tuple[str, str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        time.sleep(self.server.stall)
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        hub = self.server
        hub.requests.append((self.command, self.path, self.headers.get("Range")))
        if hub.status:
            self.send_error(hub.status)
        elif self.path.startswith("/datasets/old/"):
            self.redirect(self.path.replace("/old/", "/roneneldan/"))
        elif self.path.startswith("/datasets/"):
            self.redirect(f"/storage{self.path}", hub)
        else:
            self.send_content(body)

    def redirect(self, target: str, hub: Hub | None = None) -> None:
        self.send_response(302)
        self.send_header("Location", target)
        self.send_header("Content-Length", "0")
        if hub is not None and hub.size_header:
            self.send_header("X-Linked-Size", str(len(hub.content)))
            self.send_header("X-Linked-ETag", f'"{hashlib.sha256(hub.content).hexdigest()}"')
        self.end_headers()

    def send_content(self, body: bool) -> None:
        hub = self.server
        content = hub.content if hub.served is None else hub.served
        start = 0
        asked = self.headers.get("Range")
        if asked and hub.ranges:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if not body:
            return
        part = content[start:] if hub.close_after is None else content[start : start + hub.close_after]
        for offset in range(0, len(part), 100_000):
            self.wfile.write(part[offset : offset + 100_000])
            time.sleep(hub.delay)
        if len(part) < len(content) - start:
            self.close_connection = True


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def address(hub: Hub, owner: str = "roneneldan") -> str:
    return f"{hub.url}/datasets/{owner}/TinyStories/resolve/main/a.txt"


def part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def test_fetches_the_dataset_with_the_hubs_own_addresses(hub: Hub, tmp_path: Path):
    paths = download("tinystories", tmp_path / "data", progress=False)
    assert [path.name for path in paths] == ["TinyStories-train.txt", "TinyStories-valid.txt"]
    assert all(path.read_bytes() == CONTENT for path in paths)
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == [path.name for path in paths]
    assert ("HEAD", "/datasets/roneneldan/TinyStories/resolve/main/TinyStories-train.txt", None) in hub.requests
    hub.requests.clear()
    download("tinystories", tmp_path / "data", progress=False)
    assert {method for method, _, _ in hub.requests} == {"HEAD"}, "whole files are not fetched again"


def test_size_and_hash_come_from_the_first_answer_even_after_a_renaming(hub: Hub):
    for owner in ("roneneldan", "old"):
        remote = describe(address(hub, owner))
        assert (remote.size, remote.sha256) == (len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


def test_an_interrupted_download_goes_on_where_it_ended(hub: Hub, tmp_path: Path):
    path = tmp_path / "a.txt"
    hub.close_after = len(CONTENT) // 2
    fetch(address(hub), path, progress=False)
    assert path.read_bytes() == CONTENT
    assert [asked for method, _, asked in hub.requests if method == "GET" and asked] == 2 * [
        f"bytes={len(CONTENT) // 2}-"
    ], "once for the redirect and once for the storage"


def test_a_part_left_by_an_earlier_run_is_continued(hub: Hub, tmp_path: Path):
    path = tmp_path / "a.txt"
    command = "import sys; from pathlib import Path; from gpt2.data.download import fetch; fetch(sys.argv[1], Path(sys.argv[2]))"
    hub.delay = 0.2
    with subprocess.Popen(
        [sys.executable, "-c", command, address(hub), str(path)], stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 30
        while not (part(path).exists() and part(path).stat().st_size >= 200_000):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT if os.name != "nt" else signal.SIGTERM)
    have = part(path).stat().st_size
    assert 0 < have < len(CONTENT)
    assert not path.exists()
    hub.delay = 0.0
    hub.requests.clear()
    fetch(address(hub), path, progress=False)
    assert path.read_bytes() == CONTENT
    assert ("GET", "/storage/datasets/roneneldan/TinyStories/resolve/main/a.txt", f"bytes={have}-") in hub.requests
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.txt"]


def test_a_part_of_another_version_is_not_continued(hub: Hub, tmp_path: Path):
    path = tmp_path / "a.txt"
    hub.close_after = 0
    hub.content = b"old version" * 1000
    with pytest.raises(UserError):
        fetch(address(hub), path, progress=False)
    part(path).write_bytes(b"old")
    hub.close_after, hub.content = None, CONTENT
    fetch(address(hub), path, progress=False)
    assert path.read_bytes() == CONTENT


def test_a_server_without_ranges_starts_over(hub: Hub, tmp_path: Path):
    path = tmp_path / "a.txt"
    hub.ranges = False
    hub.close_after = len(CONTENT) // 2
    with pytest.raises(UserError, match="broke 5 times"):
        fetch(address(hub), path, progress=False)
    assert part(path).exists()
    hub.close_after = None
    assert fetch(address(hub), path, progress=False).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("served", "message"),
    [
        (CONTENT[:-1] + b"x", "SHA-256 is not the promised"),
        (CONTENT + b"more", "it has more than 1,024,000 bytes"),
        (CONTENT[:-5], "broke 5 times"),
    ],
    ids=["wrong bytes", "too long", "too short"],
)
def test_other_bytes_than_promised_never_appear(served: bytes, message: str, hub: Hub, tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("the old file")
    hub.served = served
    with pytest.raises(UserError, match=message):
        fetch(address(hub), path, progress=False)
    assert path.read_text() == "the old file"
    if "broke" not in message:
        assert not part(path).exists()
    hub.served = None
    assert fetch(address(hub), path, progress=False).read_bytes() == CONTENT


def test_a_file_without_a_hash_is_checked_by_its_size(hub: Hub, tmp_path: Path):
    hub.size_header = False
    assert describe(address(hub)).sha256 is None
    assert fetch(address(hub), tmp_path / "a.txt", progress=False).read_bytes() == CONTENT


@pytest.mark.parametrize("status", [404, 401, 500])
def test_the_servers_refusal_is_one_sentence(status: int, hub: Hub, tmp_path: Path):
    hub.status = status
    with pytest.raises(UserError, match=f"127.0.0.1:[0-9]+ answered {status}") as caught:
        download("tinystories", tmp_path, progress=False)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_no_network_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for endpoint, message in [
        ("http://127.0.0.1:1", "cannot reach 127.0.0.1:1: .*refused"),
        ("http://no-such-host.invalid", "cannot reach no-such-host.invalid"),
        ("ftp://example", "no web address; check HF_ENDPOINT"),
    ]:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        with pytest.raises(UserError, match=message) as caught:
            download("tinystories", tmp_path, progress=False)
        assert "\n" not in str(caught.value)


def test_a_silent_server_is_given_up(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gpt2.data.download.TIMEOUT_SECONDS", 0.1)
    hub.stall = 0.3
    with pytest.raises(UserError, match=r"broke 5 times \(timed out\)"):
        fetch(address(hub), tmp_path / "a.txt", progress=False)


def test_no_room_is_seen_before_the_download(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"no room on the disk for a\.txt"):
        fetch(address(hub), tmp_path / "a.txt", progress=False)
    assert {method for method, _, _ in hub.requests} == {"HEAD"}


def test_a_folder_that_cannot_be_written(hub: Hub, tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write"):
        fetch(address(hub), tmp_path / "file" / "a.txt", progress=False)


def test_unknown_name(tmp_path: Path):
    with pytest.raises(DataError, match=r"unknown dataset 'tinystory'\. Did you mean 'tinystories'"):
        download("tinystory", tmp_path)
