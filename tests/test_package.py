"""The package as it is installed: what it holds, what its names load, what its files for people and machines say."""

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import gpt2
from gpt2.cli import COMMANDS
from gpt2.config import load_preset, preset_config, preset_names
from gpt2.settings import TrainSettings

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
HEAVY = {"torch", "transformers", "tokenizers", "matplotlib", "safetensors", "numpy"}


def modules_after(code: str) -> set[str]:
    """Modules that a fresh Python has loaded after running `code`."""
    report = "\nimport json, sys\nprint('\\nmodules:' + json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.rsplit("modules:", 1)[1]))


def command(*arguments: str) -> str:
    """Code that runs the command line and survives its exit."""
    return f"from gpt2.cli import main\ntry:\n    main({list(arguments)})\nexcept SystemExit as end:\n    assert not end.code"


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)],
    ids=lambda words: " ".join(words),
)
def test_help_loads_no_torch(arguments: list[str]) -> None:
    loaded = modules_after(command(*arguments))
    assert "gpt2.cli" in loaded
    assert loaded & HEAVY == set()


def test_import_loads_no_torch() -> None:
    assert modules_after("import gpt2; gpt2.GPT2Config(); dir(gpt2)") & HEAVY == set()


def test_the_check_would_see_torch() -> None:
    assert "torch" in modules_after("import gpt2; gpt2.GPT2")


def test_training_loads_no_compiler(tmp_path: Path) -> None:
    """torch.compile takes as long to load as all the rest of a start; who does not use it does not wait for it."""
    code = (
        f"import gpt2; gpt2.train([], out={str(tmp_path / 'run')!r}, steps=2, fraction=0.02, vocab_size=300, d_model=16, "
        "context_length=16, num_layers=1, num_heads=1, batch_size=2, evals=1, device='cpu', progress=False)"
    )
    assert [name for name in modules_after(code) if name.startswith(("torch._dynamo", "torch._inductor"))] == []


@pytest.mark.parametrize("name", gpt2.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(gpt2, name) is not None
    assert name in dir(gpt2)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'GPT3'"):
        gpt2.GPT3  # noqa: B018


def test_types_and_names_agree() -> None:
    """What type checkers see (TYPE_CHECKING) is what Python gives (__getattr__)."""
    tree = ast.parse(Path(gpt2.__file__).read_text(encoding="utf-8"))
    (block,) = [n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    seen = {alias.asname for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen | {"__version__"} == set(gpt2.__all__)


def test_one_version_everywhere() -> None:
    assert gpt2.__version__ == PROJECT["version"] == importlib.metadata.version("gpt2-from-scratch")
    done = subprocess.run([sys.executable, "-m", "gpt2", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["gpt2-from-scratch", PROJECT["version"]]


def test_the_command_is_installed() -> None:
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="gpt2")
    from gpt2.cli import main

    assert entry.load() is main


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_settings(name: str) -> None:
    settings = TrainSettings.layered({"preset": name})
    assert all(settings.flat()[key] == value for key, value in load_preset(name).items() if not isinstance(value, list))
    preset_config(name)


def test_the_wheel_holds_all_that_is_needed_and_no_more(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if not name.split("/")[0].endswith(".dist-info")}
        archive.extractall(tmp_path / "installed")
    source = ROOT / "src"
    wanted = {p.relative_to(source).as_posix() for p in (source / "gpt2").rglob("*") if p.is_file()}
    assert held == {name for name in wanted if "__pycache__" not in name}
    assert {"gpt2/py.typed", "gpt2/data/bundled_stories.txt.xz", "gpt2/presets/tinystories.toml"} <= held
    # The stories and presets are found from there too, and nothing else of the checkout is needed.
    code = (
        "import gpt2, sys; from gpt2.data import iter_documents; from gpt2.config import preset_names\n"
        "print(gpt2.__file__, len(list(iter_documents())), *preset_names(), sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path / 'installed')!r})\n{code}"],
        cwd=tmp_path, check=True, capture_output=True, text=True,
    )  # fmt: skip
    where, documents, *names = done.stdout.splitlines()
    assert Path(where).is_relative_to(tmp_path)
    assert int(documents) == 2040
    assert names == preset_names()


def test_the_pinned_versions_satisfy_the_project() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    versions = {_canonical(pin.name): next(iter(pin.specifier)).version for pin in pins}
    assert len(versions) == len(pins)
    extras = PROJECT["optional-dependencies"]
    for line in [*PROJECT["dependencies"], *extras["dev"], *extras["hub"], *extras["export"]]:
        wanted = Requirement(line)
        assert wanted.specifier.contains(versions[_canonical(wanted.name)]), line


def _canonical(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


def test_workflows_test_what_the_project_says_it_supports() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    matrix = workflow["jobs"]["test"]["strategy"]["matrix"]
    classified = {line.split(" :: ")[-1] for line in PROJECT["classifiers"] if "Python :: 3." in line}
    assert set(matrix["python"]) == classified
    assert {name.split("-")[0] for name in matrix["os"]} == {"ubuntu", "macos", "windows"}
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] > 0
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step), step
    assert workflow["permissions"] == {"contents": "read"}


def test_pre_commit_hooks_are_local() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [repository["repo"] for repository in config["repos"]] == ["local"]


def test_the_changelog_has_a_place_for_what_is_new() -> None:
    assert re.search(r"^## \[Unreleased\]$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
