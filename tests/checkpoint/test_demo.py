"""The model that the package brings: small, whole, what its card says, and found under the name `demo`."""

import json
from pathlib import Path

import pytest
import torch

from gpt2 import GPT2, GPT2Config, load
from gpt2.checkpoint.demo import demo_folder, which_demo
from gpt2.cli import main
from gpt2.errors import CheckpointError
from gpt2.evaluation.bits_per_byte import score_documents
from gpt2.evaluation.text import Judged, from_files
from gpt2.files import sha256

FIGURES = json.loads((demo_folder() / "figures.json").read_text(encoding="utf-8"))
VALID = Path(__file__).resolve().parents[3] / "shared" / "data" / "TinyStories-valid.txt"
STORY = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the sun. One day, she saw a big "
    'dog. The dog was sad. Lily asked, "What is wrong?" The dog said, "I lost my ball." Lily wanted to help.'
)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_is_small_and_has_about_a_million_parameters(elsewhere: Path) -> None:
    assert sum(path.stat().st_size for path in demo_folder().iterdir()) < 2_500_000
    model, tokenizer = load("demo")
    assert 900_000 < model.num_parameters() < 1_200_000
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert tokenizer.vocab_size == model.config.vocab_size


def test_it_has_learned_to_tell_stories(elsewhere: Path) -> None:
    model, tokenizer = load("demo")
    ids = [tokenizer.eos_token_id, *tokenizer.encode(STORY)]
    judged = Judged([STORY], "a story")
    score = score_documents(model, judged.encode(tokenizer), judged.num_bytes, tokenizer.eos_token_id)
    assert score.bits_per_byte < 1.0  # an untrained one needs about 3
    with torch.no_grad():
        after_named = model(torch.tensor([ids[: ids.index(tokenizer.encode(" named")[0]) + 1]]))[0, -1]
    assert int(after_named.argmax()) in {tokenizer.encode(name)[0] for name in (" Lily", " Lucy", " Mia", " Sue")}


@pytest.mark.slow
@pytest.mark.skipif(not VALID.is_file(), reason="the validation text of TinyStories is not here")
def test_the_figure_of_its_card_is_found_again(elsewhere: Path) -> None:
    model, tokenizer = load("demo")
    judged = Judged(from_files([VALID]).texts[: FIGURES["held_out"]["documents"]], "")
    assert int(judged.num_bytes.sum()) == FIGURES["held_out"]["bytes"]
    score = score_documents(model, judged.encode(tokenizer), judged.num_bytes, tokenizer.eos_token_id)
    assert score.bits_per_byte == pytest.approx(FIGURES["bits_per_byte"]["float16"], abs=1e-4)


def test_card_and_figures_belong_to_the_weights() -> None:
    assert sha256(demo_folder() / "model.safetensors") == FIGURES["weights_sha256"]
    card = (demo_folder() / "README.md").read_text(encoding="utf-8")
    for kind in ("float32", "float16"):
        assert f"{FIGURES['bits_per_byte'][kind]:.4f}" in card
    assert abs(FIGURES["bits_per_byte"]["float32"] - FIGURES["bits_per_byte"]["float16"]) < 0.001
    assert f"{FIGURES['steps']:,} steps" in card
    assert "CDLA-Sharing-1.0" in card
    assert "CDLA-Sharing-1.0" in (Path(__file__).resolve().parents[2] / "LICENSE-DATA").read_text(encoding="utf-8")


def test_transformers_reads_it_too(elsewhere: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model, tokenizer = load("demo")
    ids = torch.tensor([tokenizer.encode(STORY)])
    theirs = transformers.GPT2LMHeadModel.from_pretrained(demo_folder(), dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(model(ids), theirs(ids).logits, atol=1e-3, rtol=1e-4)


def test_a_path_of_that_name_comes_first_and_it_is_said(
    elsewhere: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert main(["generate", "demo", "Once upon a time", "--max-new-tokens", "2", "--seed", "0"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("Once upon a time")
    assert "demo is the model that comes with the package" in said.err
    Path("demo").mkdir()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load("demo")
    _, tokenizer = load(demo_folder())
    mine = GPT2(GPT2Config(tokenizer.vocab_size, 16, 8, 1, 1))
    mine.save_pretrained("demo")
    tokenizer.save_pretrained("demo")
    with caplog.at_level("INFO"):
        loaded, _ = load("demo")
    assert loaded.config.d_model == 8
    assert f"demo is {(elsewhere / 'demo').resolve()}" in caplog.text
    assert main(["generate", "demo", "Once", "--max-new-tokens", "1"]) == 0
    assert str((elsewhere / "demo").resolve()) in capsys.readouterr().err
    assert which_demo("models/demo") is None


def test_evaluate_says_that_it_has_no_text_of_its_own(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "demo"]) == 2
    assert "demo was not trained here" in capsys.readouterr().err
