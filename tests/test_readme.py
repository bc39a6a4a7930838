"""Every command and every line of Python in README.md and in the pages of docs/, run for real.

Only what would take minutes is made small, by the rules of `quick`; what needs the network or would install into the
environment is left out, by name. The examples run in order in one folder, as a reader would run them.
"""

import dataclasses
import importlib
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from gpt2.cli import COMMANDS, main
from gpt2.data import iter_documents
from gpt2.settings import TrainSettings

ROOT = Path(__file__).resolve().parents[1]
TINY = ["--d-model", "32", "--num-layers", "1", "--num-heads", "2", "--context-length", "64", "--vocab-size", "400"]
MINUTES = "0.01"

LEFT_OUT = {
    "pip install": "installs into the environment; CI does it",
    "npm install": "needs the network; `make interop` does it",
    "hf upload": "needs an account",
    "gpt2 import hf:": "needs the network; tests/checkpoint/test_hub.py fetches from a server of its own",
    "gpt2 import out/ckpt.pt": "needs a checkpoint of nanoGPT; tests/interop/test_nanogpt.py builds them",
    "torchrun": "needs several processes; tests/distributed runs it",
    "gpt2 verify-resume": "trains for a minute; tests/training/test_verification.py runs it smaller",
    "gpt2 data download": "needs the network; tests/data/test_download.py runs it against a server of its own",
}

# The example of the project's contract with its users; README.md has the same lines in an order that needs no model.
CONTRACT = """
from gpt2 import GPT2, GPT2Config, Tokenizer, load, train

config = GPT2Config(vocab_size=10_048, context_length=512, d_model=512, num_layers=6, num_heads=8, dropout=0.0)   # these are the defaults
model = GPT2(config)                                   # model(ids) -> logits, float (batch, time, vocab)
context = torch.tensor([tokenizer.encode("Once upon a time")], dtype=torch.long)
output = model.generate(context, max_new_tokens=100, temperature=0.8)     # long (batch, time + new), KV cache inside
print(tokenizer.decode(output[0].tolist()))

model, tokenizer = load("models/mine")                 # a run folder, any Hugging Face GPT-2 folder, "hf:owner/name", or a .pt beside tokenizer.json
model.save_pretrained("out"); tokenizer.save_pretrained("out")            # a folder that transformers loads
run = train(["stories.txt"], out="models/mine", minutes=5)               # what `gpt2 train` does
"""


def examples(document: str) -> list[tuple[str, str]]:
    """The fenced blocks of a document that run, in order: ("sh" or "python", text)."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(r"^```(sh|python)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def blocks(document: str, language: str) -> list[str]:
    """Those in one language."""
    return [text for kind, text in examples(document) if kind == language]


PAGES = [
    path.relative_to(ROOT).as_posix()
    for path in sorted((ROOT / "docs").rglob("*.md"))
    if examples(path.relative_to(ROOT).as_posix())
]


def quick(arguments: list[str]) -> list[str]:
    """A `gpt2` command that trains for minutes, made to take a second: less time, and a tiny model unless it has one."""
    if arguments[0] != "train":
        return arguments
    short = [
        MINUTES if before == "--minutes" else word for before, word in zip(["", *arguments], arguments, strict=False)
    ]
    if not {"--minutes", "--epochs", "--steps", "--resume"} & set(short):
        short += ["--minutes", MINUTES]
    return short if {"--resume", "--from"} & set(short) else [*short, *TINY]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the examples find: some texts, and models/demo, trained for a few steps."""
    path = tmp_path_factory.mktemp("examples")
    stories = [story for _, story in zip(range(150), iter_documents(), strict=False)]
    (path / "data").mkdir()
    for name, separator in {
        "stories.txt": "\n<|endoftext|>\n", "your.txt": "\n\n\n", "more.txt": "\n\n", "other.txt": "\n\n",
        "data/TinyStories-train.txt": "\n<|endoftext|>\n", "data/TinyStories-valid.txt": "\n<|endoftext|>\n",
    }.items():  # fmt: skip
        part = stories[100:] if name in ("more.txt", "data/TinyStories-valid.txt") else stories[:100]
        (path / name).write_text(separator.join(part), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.setenv("GPT2_CACHE", str(path / "cache"))
        sizes = [*TINY, "--num-layers", "2", "--steps", "6", "--batch-size", "4"]
        assert main(["train", "stories.txt", *sizes, "--out", "models/demo"]) == 0
    return path


@pytest.fixture
def folder(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of all that, to work in."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPT2_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize("document", ["README.md", *PAGES])
def test_every_example_runs(document: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for language, text in examples(document):
        if language == "sh":
            for line in filter(None, text.splitlines()):
                run_command(line, document, capsys)
        elif document != "README.md":  # its Python has a test of its own
            exec(compile(text, document, "exec"), names)
        for file in re.findall(r"""(?:--out|-o|save\() ?["']?([\w/-]+\.(?:svg|png|json))""", text):
            assert Path(file).stat().st_size > 0, f"{document}: {file} was not written"


def run_command(line: str, document: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line of a shell block: it ends well and says something."""
    arguments = shlex.split(line)
    if any(line.startswith(start) for start in LEFT_OUT):
        return
    if arguments[0] == "make":
        check_make_target(arguments[1:])
        if arguments[1] != "demo":
            return
        arguments = demo_command()
    assert arguments[0] == "gpt2", f"{document} has a command that this test cannot run: {line}"
    try:
        status = main(quick(arguments[1:]))
    except SystemExit as end:  # the settings library's own end, of a usage error
        status = end.code
    output = capsys.readouterr()
    assert status == 0, f"{document}: {line}\n{output.out[-2000:]}{output.err[-2000:]}"
    assert output.out.strip(), f"{document}: {line} said nothing"


def check_make_target(arguments: list[str]) -> None:
    """A dry run: for real it would build an environment."""
    if shutil.which("make") is not None:  # on Windows there is none
        done = subprocess.run(["make", "-n", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def demo_command() -> list[str]:
    """What `make demo` trains, out of the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    options = re.search(r"^DEMO \?= (.*)$", makefile, re.MULTILINE)
    command = re.search(r"^\t\$\(BIN\)/(gpt2 train \$\(DEMO\) .*)$", makefile, re.MULTILINE)
    assert options is not None
    assert command is not None
    return shlex.split(command[1].replace("$(DEMO)", options[1]))


def test_the_python_examples_run(folder: Path) -> None:
    import torch

    from gpt2 import Tokenizer

    (code,) = blocks("README.md", "python")
    names: dict[str, object] = {}
    exec(compile(quick_python(code), "README.md", "exec"), names)
    check_example(names, folder)
    # The contract, word for word. Its last line makes models/mine anew, which must be said to a folder that holds a run.
    names = {"torch": torch, "tokenizer": Tokenizer.load("models/mine")}
    code = quick_python(CONTRACT).replace('out="models/mine"', 'out="models/mine", overwrite=True')
    exec(compile(code, "contract", "exec"), names)
    check_example(names, folder)


def quick_python(code: str) -> str:
    """Less time: minutes=5 becomes a moment."""
    short, replaced = re.subn(r"minutes=\d+", f"minutes={MINUTES}", code)
    assert replaced == 1
    return short


def check_example(names: dict[str, object], folder: Path) -> None:
    import transformers

    from gpt2 import GPT2Config

    assert names["config"] == GPT2Config()
    assert names["output"].shape[1] > names["context"].shape[1]  # type: ignore[attr-defined]
    model, report = transformers.GPT2LMHeadModel.from_pretrained(folder / "out", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert model.num_parameters() == names["model"].num_parameters()  # type: ignore[attr-defined]
    assert transformers.AutoTokenizer.from_pretrained(folder / "out").decode(
        names["tokenizer"].encode("Once upon a time")  # type: ignore[attr-defined]
    ) == "Once upon a time"  # fmt: skip


def test_readme_has_the_contract_line_for_line() -> None:
    (code,) = blocks("README.md", "python")
    lines = {line for line in code.splitlines() if line}
    assert {line for line in CONTRACT.splitlines() if line} <= lines


def test_the_table_has_the_commands_that_there_are() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| `gpt2 ([\w-]+)[ `]", text, re.MULTILINE)
    assert list(dict.fromkeys(named)) == list(COMMANDS)


@pytest.mark.parametrize(
    "document",
    ["README.md", "CONTRIBUTING.md", *(p.relative_to(ROOT).as_posix() for p in (ROOT / "docs").rglob("*.md"))],
)
def test_links_and_options_exist(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", text):
        assert ((ROOT / document).parent / target).exists(), f"{document} links to {target}"
    known = {f"--{name.replace('_', '-')}" for name in TrainSettings().flat()}
    known |= {f"--{name.replace('_', '-')}" for name in options_of_commands()}
    known |= {
        "--from",
        "--preset",
        "--config",
        "--help",
        "--json",
        "--temperature",
        "--index-url",
        "--write",
        "--rounds",
        "--only",
        "--no-deps",
    }
    from torch.distributed.run import get_args_parser

    from benchmarks.serving import command_line

    for parser in (get_args_parser(), command_line()):
        known |= {option for action in parser._actions for option in action.option_strings}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) - known == set()


def options_of_commands() -> set[str]:
    """Names of the fields of every command's settings."""
    modules = [importlib.import_module(f"gpt2.cli.{command.replace('-', '_')}") for command in COMMANDS]
    kinds = [kind for module in modules for kind in vars(module).values() if dataclasses.is_dataclass(kind)]
    return {field.name for kind in kinds for field in dataclasses.fields(kind)}


def test_what_is_quick_is_still_the_command() -> None:
    assert quick(["train", "a.txt", "--minutes", "10", "--out", "x"]) == [
        "train",
        "a.txt",
        "--minutes",
        MINUTES,
        "--out",
        "x",
        *TINY,
    ]
    assert quick(["train", "--resume", "x"]) == ["train", "--resume", "x"]
    assert quick(["train", "a.txt"]) == ["train", "a.txt", "--minutes", MINUTES, *TINY]
    assert quick(["evaluate", "x"]) == ["evaluate", "x"]
