"""Fetching TinyStories from the Hugging Face Hub: resumable, checked, all or nothing.

TinyStories: Eldan and Li, 2023, https://huggingface.co/datasets/roneneldan/TinyStories,
licence CDLA-Sharing-1.0.
"""

import contextlib
import hashlib
import http.client
import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

from gpt2.errors import DataError, UserError, nearest
from gpt2.files import require_free_space, write_json

DATASETS = {
    "tinystories": ("roneneldan/TinyStories", ("TinyStories-train.txt", "TinyStories-valid.txt")),
    "tinystories-v2": (
        "roneneldan/TinyStories",
        ("TinyStoriesV2-GPT4-train.txt", "TinyStoriesV2-GPT4-valid.txt"),
    ),
}
TIMEOUT_SECONDS = 30.0

_BLOCK_BYTES = 1 << 20
_MAX_REDIRECTS = 5
_ATTEMPTS = 5  # without a single new byte
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class RemoteFile:
    """What the Hub says about a file before it is fetched."""

    url: str
    size: int
    sha256: str | None
    """Of a file in large-file storage; the Hub names none for small ones."""


def download(name: str, folder: str | Path = "data", *, revision: str = "main", progress: bool = True) -> list[Path]:
    """Fetch a dataset's files into `folder`; files that are there and whole are left alone.

    An interrupted download leaves `FILE.part` and goes on from there the next time. A file appears
    under its name only when its size and SHA-256 are those that the Hub states.

    Args:
        name: one of `DATASETS`.
        folder: created if missing.
        revision: branch, tag or commit on the Hub.
        progress: show bars.

    Returns:
        The files, training text first.

    Raises:
        DataError: unknown name.
        UserError: no network, no such file, no room, or bytes that are not the ones promised. What
            stood in `folder` is untouched.
    """
    if name not in DATASETS:
        raise DataError(f"unknown dataset {name!r}.{nearest(name, DATASETS)} There are {', '.join(DATASETS)}")
    repository, files = DATASETS[name]
    endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    base = f"{endpoint}/datasets/{repository}/resolve/{urllib.parse.quote(revision, safe='')}"
    return [fetch(f"{base}/{file}", Path(folder) / file, progress=progress) for file in files]


def fetch(url: str, path: Path, *, progress: bool = True) -> Path:
    """Fetch one file of the Hub; see `download`."""
    remote = describe(url)
    if path.exists() and path.stat().st_size == remote.size and remote.sha256 in (None, _sha256(path)):
        return path
    part = path.with_name(path.name + ".part")
    with _told(url, path):
        have = _usable(part, remote)
        require_free_space(path.parent, remote.size - have, path.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        # A part is only worth continuing if it is of the same version of the file.
        write_json(_origin(part), {"size": remote.size, "sha256": remote.sha256})
        _fill(part, remote, progress)
        _check(part, remote)
        part.replace(path)
        _origin(part).unlink(missing_ok=True)
    return path


def describe(url: str) -> RemoteFile:
    """Ask for a file's size and SHA-256.

    They stand in the Hub's own answer, `X-Linked-Size` and `X-Linked-ETag`, not in that of the
    storage it redirects to: so the redirect is not followed for them.

    Raises:
        UserError: no network, no such file, or an answer without a size.
    """
    with _told(url, None):
        headers = _head(url)
    etag = headers.get("X-Linked-ETag", "").removeprefix("W/").strip('"').lower()
    size = headers.get("X-Linked-Size") or headers.get("Content-Length")
    if size is None or not size.isdigit():
        raise UserError(f"{url} does not say how large the file is; is a proxy answering instead of the Hub?")
    return RemoteFile(url, int(size), etag if _SHA256.fullmatch(etag) else None)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def _head(url: str) -> Message:
    """Headers of the first answer that is the file's own or knows its size."""
    opener = urllib.request.build_opener(_NoRedirect)
    for _ in range(_MAX_REDIRECTS):
        try:
            with opener.open(_request(url, method="HEAD"), timeout=TIMEOUT_SECONDS) as response:
                return response.headers
        except urllib.error.HTTPError as error:
            error.close()
            if not 300 <= error.code < 400 or "Location" not in error.headers:
                raise
            if "X-Linked-Size" in error.headers:
                return error.headers
            url = urllib.parse.urljoin(url, error.headers["Location"])
    raise ConnectionError("it redirects without end")


def _fill(part: Path, remote: RemoteFile, progress: bool) -> None:
    from tqdm import tqdm

    have = part.stat().st_size if part.exists() else 0
    with tqdm(
        total=remote.size,
        initial=have,
        desc=part.stem,
        unit="B",
        unit_scale=True,
        disable=None if progress else True,
    ) as bar:
        failures = 0
        while have < remote.size:
            try:
                reason = _read_once(part, remote, have, bar)
            except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
                reason = str(error) or type(error).__name__
            now = part.stat().st_size if part.exists() else 0
            failures = failures + 1 if now <= have else 0
            have = now
            if failures == _ATTEMPTS:
                raise ConnectionError(f"the connection broke {_ATTEMPTS} times ({reason})")


def _read_once(part: Path, remote: RemoteFile, have: int, bar: Any) -> str:
    """Append what one request brings; never more than the promised size (and one block)."""
    request = _request(remote.url, **({"Range": f"bytes={have}-"} if have else {}))
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
        continues = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if have and not continues:  # the server starts over, so do we
            bar.reset()
        with part.open("ab" if continues else "wb") as file:
            while file.tell() <= remote.size and (block := response.read1(_BLOCK_BYTES)):
                file.write(block)
                bar.update(len(block))
    return "it ended early"


def _check(part: Path, remote: RemoteFile) -> None:
    size = part.stat().st_size
    reason = ""
    if size != remote.size:
        reason = f"it has {'more than ' if size > remote.size else ''}{min(size, remote.size):,} bytes"
        reason += f", {remote.size:,} were promised"
    elif remote.sha256 is not None and _sha256(part) != remote.sha256:
        reason = f"its SHA-256 is not the promised {remote.sha256}"
    if reason:
        part.unlink()
        _origin(part).unlink(missing_ok=True)
        raise UserError(f"{remote.url} came damaged: {reason}; it was deleted, try again")


def _usable(part: Path, remote: RemoteFile) -> int:
    """Bytes of an earlier try that can be kept; a part of another version is removed."""
    try:
        origin = json.loads(_origin(part).read_text(encoding="utf-8"))
        if origin == {"size": remote.size, "sha256": remote.sha256} and part.stat().st_size <= remote.size:
            return part.stat().st_size
    except (OSError, ValueError):
        pass
    part.unlink(missing_ok=True)
    return 0


def _origin(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _request(url: str, method: str = "GET", **headers: str) -> urllib.request.Request:
    if not url.startswith(("https://", "http://")):
        raise UserError(f"{url} is no web address; check HF_ENDPOINT")
    # Compressed on the way, the sizes would not be the file's.
    return urllib.request.Request(
        url,
        method=method,
        headers={"User-Agent": "gpt2-from-scratch", "Accept-Encoding": "identity", **headers},
    )


@contextlib.contextmanager
def _told(url: str, path: Path | None) -> Iterator[None]:
    """Say in one sentence what went wrong on the net or on the disk."""
    host = urllib.parse.urlsplit(url).netloc
    kept = "; what has come is kept, the same command goes on from there" if path else ""
    try:
        yield
    except urllib.error.HTTPError as error:
        raise UserError(f"{host} answered {error.code} ({error.reason}) for {url}") from error
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise UserError(
            f"cannot reach {host}: {reason}; is there a network, or a proxy to name in HTTPS_PROXY?{kept}"
        ) from error
    except OSError as error:
        raise UserError(f"cannot write {path or url}: {error.strerror or error}{kept}") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
