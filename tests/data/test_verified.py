"""Hashes compared once: what has not changed is not read again, what has changed is."""

import os
from pathlib import Path

import pytest

from gpt2.data.shard_writer import write_shards
from gpt2.data.shards import TokenShards
from gpt2.data.verified import Verified
from gpt2.errors import DataError
from gpt2.tokenizer import Tokenizer
from tests.data.test_shards import pieces_after


@pytest.fixture
def folder(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    write_shards(tmp_path / "shards", tokenizer, pieces_after, shard_ids=20)
    for path in (tmp_path / "shards").glob("*.ids"):
        os.utime(path, (1e9, 1e9))  # young files are not trusted yet
    return tmp_path / "shards"


def opened(folder: Path, cache: Path) -> TokenShards:
    return TokenShards.open(folder, known=Verified(folder, cache))


def test_a_second_look_reads_nothing_and_another_machine_reads_all(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(folder, tmp_path / "cache")
    content = bytearray((folder / "00000.ids").read_bytes())
    content[6] ^= 1
    with (folder / "00000.ids").open("r+b") as file:  # a bit turns over on the disk: no time, size or inode changes
        file.write(content)
    os.utime(folder / "00000.ids", (1e9, 1e9))
    opened(folder, tmp_path / "cache")
    with pytest.raises(DataError, match=r"00000\.ids is damaged"):
        TokenShards.open(folder)
    monkeypatch.setattr("platform.node", lambda: "another")
    with pytest.raises(DataError, match=r"00000\.ids is damaged"):
        opened(folder, tmp_path / "cache")


@pytest.mark.parametrize("how", ["changed", "replaced", "swapped", "truncated", "deleted"])
def test_what_changed_is_read_again(how: str, folder: Path, tmp_path: Path) -> None:
    opened(folder, tmp_path / "cache")
    victim = folder / "00000.ids"
    content = bytearray(victim.read_bytes())
    content[6] ^= 1
    if how == "changed":
        victim.write_bytes(content)
    elif how == "replaced":  # with the same size and time
        victim.rename(folder / "old")  # which keeps its inode
        victim.write_bytes(content)
        os.utime(victim, (1e9, 1e9))
    elif how == "swapped":
        (folder / "00001.ids").rename(folder / "x")
        victim.rename(folder / "00001.ids")
        (folder / "x").rename(victim)
    elif how == "truncated":
        os.truncate(victim, len(content) - 2)
    else:
        victim.unlink()
    with pytest.raises(DataError, match=r"0000[01]\.ids"):
        opened(folder, tmp_path / "cache")


def test_young_files_and_damaged_memories_are_not_trusted(folder: Path, tmp_path: Path) -> None:
    opened(folder, tmp_path / "cache")
    (memory,) = (tmp_path / "cache" / "verified").iterdir()
    for nonsense in ("", "[]", '{"00000.ids": 3}', '{"00000.ids": [1, 2, 3, "x"]}'):
        memory.write_text(nonsense)
        opened(folder, tmp_path / "cache")
    memory.unlink()
    for path in folder.glob("*.ids"):
        path.touch()
    opened(folder, tmp_path / "cache")
    assert not memory.exists()
