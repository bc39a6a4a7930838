import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gpt2.data import TokenShards, prepare, prepare_corpus, survey
from gpt2.errors import DataError, UserError
from gpt2.tokenizer import Tokenizer


def texts(shards: TokenShards, tokenizer: Tokenizer) -> list[str]:
    ids = [shards.document(number).tolist() for number in range(len(shards))]
    assert all(document[0] == tokenizer.eos_token_id for document in ids)
    assert all(tokenizer.eos_token_id not in document[1:] for document in ids)
    return [tokenizer.decode(document) for document in ids]


def test_shards_hold_exactly_the_documents(
    write: Callable[..., Path], cache: Path, tokenizer: Tokenizer, stories: list[str]
):
    documents = [*stories[:150], "été 🙂 中文", "mentions <|endoftext> only"]
    prepared = prepare([write(documents)], tokenizer, valid_fraction=0.1, progress=False)
    train, valid = texts(prepared.train, tokenizer), texts(prepared.valid, tokenizer)
    assert sorted(train + valid) == sorted(documents)
    assert [text for text in documents if text in train] == train
    assert len(valid) == 15
    for shards, part in ((prepared.train, train), (prepared.valid, valid)):
        assert shards.document_bytes.tolist() == [len(text.encode()) for text in part]
        assert shards.lengths.tolist() == [1 + len(tokenizer.encode(text)) for text in part]
        assert shards.tokenizer_fingerprint == tokenizer.fingerprint


def test_the_bundled_corpus_is_the_default(cache: Path, tokenizer: Tokenizer):
    prepared = prepare([], tokenizer, progress=False)
    assert (len(prepared.train), len(prepared.valid)) == (1938, 102)


def test_a_single_document(cache: Path, tmp_path: Path, tokenizer: Tokenizer, stories: list[str]):
    book = "\n\n".join(stories[:60])
    (tmp_path / "book.txt").write_text(book, encoding="utf-8")
    prepared = prepare([tmp_path / "book.txt"], tokenizer, progress=False)
    (train,), (valid,) = texts(prepared.train, tokenizer), texts(prepared.valid, tokenizer)
    assert f"{train}\n\n{valid}" == book


def test_second_time_is_found_and_other_options_are_not(
    write: Callable[..., Path], cache: Path, tokenizer: Tokenizer, stories: list[str]
):
    path, other = write(stories[:60]), write(stories[60:70], "valid.txt")
    first = prepare([path], tokenizer, progress=False)
    again = prepare([path], tokenizer, progress=False)
    assert (first.cached, again.cached) == (False, True)
    assert again.train.fingerprint == first.train.fingerprint
    assert again.notes == first.notes
    smaller = Tokenizer.train(stories[:100], 400)
    for options in ({"fraction": 0.5}, {"valid_fraction": 0.2}, {"valid": [other]}, {"tokenizer": smaller}):
        assert not prepare([path], progress=False, **{"tokenizer": tokenizer, **options}).cached
    path.write_text(path.read_text(encoding="utf-8") + "one more", encoding="utf-8")
    assert not prepare([path], tokenizer, progress=False).cached


def test_the_number_of_workers_changes_nothing(
    write: Callable[..., Path], cache: Path, tokenizer: Tokenizer, stories: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("gpt2.tokenizer.parallel.BATCH_CHARACTERS", 2000)
    path = write(stories[:200])
    found = []
    for workers in (1, 2, 3):
        prepared = prepare([path], tokenizer, cache=cache / str(workers), workers=workers, progress=False)
        found.append((prepared.train.fingerprint, prepared.valid.fingerprint))
    assert len(set(found)) == 1


def test_damaged_shards_are_made_anew_and_that_is_said(
    write: Callable[..., Path], cache: Path, tokenizer: Tokenizer, stories: list[str]
):
    path = write(stories[:60])
    first = prepare([path], tokenizer, progress=False)
    victim = first.train.folder / "00000.ids"
    fingerprint = first.train.fingerprint
    del first
    content = bytearray(victim.read_bytes())
    content[100] ^= 1
    victim.write_bytes(content)
    again = prepare([path], tokenizer, progress=False)
    assert not again.cached
    assert again.train.fingerprint == fingerprint
    assert any("damaged" in note and "00000.ids" in note for note in again.notes)


def test_an_error_in_the_text_leaves_nothing(cache: Path, tmp_path: Path, tokenizer: Tokenizer):
    (tmp_path / "a.txt").write_bytes(b"good line\n<|endoftext|>\nbad \xff line")
    with pytest.raises(DataError, match="line 3: byte 0xff"):
        prepare([tmp_path / "a.txt"], tokenizer, progress=False)
    assert not list(cache.rglob("*.ids*"))
    prepared = prepare([tmp_path / "a.txt"], tokenizer, encoding_errors="replace", progress=False)
    both = texts(prepared.train, tokenizer) + texts(prepared.valid, tokenizer)
    assert sorted(both) == ["bad \ufffd line", "good line"]


SLOW_PREPARE = """
import sys, time
from pathlib import Path
from gpt2.data import prepare, survey, prepare_corpus
from gpt2.tokenizer import Tokenizer, parallel
module = sys.modules["gpt2.data.prepare"]  # the package shows the function under this name
parallel.BATCH_CHARACTERS = 2000
encode = module.encode_stream
def slow(tokenizer, texts, workers):
    for result in encode(tokenizer, texts, workers):
        time.sleep(0.01)
        yield result
module.encode_stream = slow
corpus = survey([sys.argv[1]], progress=False)
prepare_corpus(corpus, Tokenizer.load(sys.argv[2]), workers=2, shard_ids=3000, progress=False)
"""


@pytest.mark.skipif(os.name == "nt", reason="sends signals")
@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_is_continued_to_the_same_result(
    signal_number: int,
    write: Callable[..., Path],
    cache: Path,
    tmp_path: Path,
    tokenizer: Tokenizer,
    stories: list[str],
):
    path = write(stories[:200])
    tokenizer.save(tmp_path / "tokenizer.json")
    command = [sys.executable, "-c", SLOW_PREPARE, str(path), str(tmp_path / "tokenizer.json")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while len(list(cache.rglob("train/*.done.json"))) < 2:
            assert process.poll() is None, "it ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal_number)
    finished = len(list(cache.rglob("train/*.done.json")))
    assert finished >= 2
    assert not [p for p in (cache / "shards").iterdir() if not p.suffix], "nothing looks complete"
    times = {p: p.stat().st_mtime_ns for p in cache.rglob("train/*.ids") if not p.name.startswith(".")}
    corpus = survey([path], progress=False)
    prepared = prepare_corpus(corpus, tokenizer, shard_ids=3000, progress=False)
    kept = [p.name for p in times if (prepared.train.folder / p.name).stat().st_mtime_ns == times[p]]
    assert len(kept) >= 2, "finished shards are not made again"
    clean = prepare_corpus(corpus, tokenizer, cache=tmp_path / "clean", shard_ids=3000, progress=False)
    assert prepared.train.fingerprint == clean.train.fingerprint
    assert prepared.valid.fingerprint == clean.valid.fingerprint
    assert not list((cache / "shards").glob("*.partial*"))


def test_two_processes_at_once_both_succeed(
    write: Callable[..., Path], cache: Path, tmp_path: Path, tokenizer: Tokenizer, stories: list[str]
):
    path = write(stories[:100])
    tokenizer.save(tmp_path / "tokenizer.json")
    command = [sys.executable, "-c", SLOW_PREPARE, str(path), str(tmp_path / "tokenizer.json")]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(2)]
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    folders = [p for p in (cache / "shards").iterdir() if p.is_dir()]
    assert len(folders) == 1
    assert len(TokenShards.open(folders[0] / "train")) == 95


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
def test_a_full_disk_is_one_clear_error_and_nothing_is_left(
    write: Callable[..., Path], cache: Path, tmp_path: Path, tokenizer: Tokenizer, stories: list[str]
):
    path = write(stories[:200])
    tokenizer.save(tmp_path / "tokenizer.json")
    code = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
from gpt2.data import prepare
from gpt2.errors import UserError
from gpt2.tokenizer import Tokenizer
try:
    prepare([{str(path)!r}], Tokenizer.load({str(tmp_path / "tokenizer.json")!r}), progress=False)
except UserError as error:
    print(error)
    sys.exit(error.exit_code)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "cannot write" in done.stdout
    assert "00000.ids" in done.stdout
    assert not [p for p in (cache / "shards").iterdir() if p.suffix != ".lock"]

    assert len(prepare([path], tokenizer, progress=False).train) == 190


def test_a_disk_without_room_is_seen_before_the_work(
    write: Callable[..., Path], cache: Path, tokenizer: Tokenizer, stories: list[str], monkeypatch: pytest.MonkeyPatch
):
    path = write(stories[:60])
    usage = shutil.disk_usage(path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=1000))
    with pytest.raises(UserError, match="no room on the disk for the tokenised text"):
        prepare([path], tokenizer, progress=False)
    assert not list(cache.rglob("*.ids"))


def test_a_cache_that_cannot_be_written(write: Callable[..., Path], tmp_path: Path, tokenizer: Tokenizer):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write"):
        prepare([write(["a b", "c d"])], tokenizer, cache=tmp_path / "file", progress=False)


MEASURED_PREPARE = """
import resource, sys
from gpt2.data import survey, prepare_corpus
from gpt2.tokenizer import Tokenizer
corpus = survey([sys.argv[1]], progress=False)
prepared = prepare_corpus(corpus, Tokenizer.load(sys.argv[2]), workers=1, progress=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, prepared.train.num_bytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux")
@pytest.mark.parametrize("separator", ["\n<|endoftext|>\n", "\n\n"], ids=["documents", "one document"])
def test_memory_does_not_grow_with_the_text(
    separator: str, cache: Path, tmp_path: Path, tokenizer: Tokenizer, stories: list[str]
):
    tokenizer.save(tmp_path / "tokenizer.json")
    peaks = []
    for copies in (2, 25):
        path = tmp_path / f"{copies}.txt"
        with path.open("w", encoding="utf-8") as file:
            for number in range(copies):
                file.write(separator.join([str(number), *stories]) + separator)
        command = [sys.executable, "-c", MEASURED_PREPARE, str(path), str(tmp_path / "tokenizer.json")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peak, num_bytes = map(int, done.stdout.split())
        assert num_bytes > 0.9 * copies * 1_400_000
        peaks.append(peak / 1000)
    # The larger text is 32 MB larger; held in memory it would show. Counts and hashes are allowed.
    assert peaks[1] < peaks[0] + 20, f"{peaks} MB"


def test_wide_ids_for_large_vocabularies(
    write: Callable[..., Path], cache: Path, tokenizer: Tokenizer, stories: list[str]
):
    import json

    definition = json.loads(tokenizer.to_json())
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    definition["added_tokens"] += [{"id": n, "content": f"<|{n}|>", **flags} for n in range(600, 70_000)]
    large = Tokenizer(json.dumps(definition))
    prepared = prepare([write(stories[:20])], large, progress=False)
    assert prepared.train.dtype == np.dtype("<u4")
    assert set(texts(prepared.train, large) + texts(prepared.valid, large)) == set(stories[:20])
