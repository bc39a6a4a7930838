"""The page of commands: what each says to --help."""

import os
import subprocess
import sys

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_HEAD = """# Commands

What `gpt2 COMMAND --help` says. Every option may also stand in a TOML file (`--config`) for `gpt2 train`.
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page."""
    from gpt2.cli import COMMANDS

    parts = [f"## gpt2 {name}\n\n```text\n{help_text(name)}\n```\n" for name in COMMANDS]
    files.append(File.generated(config, "reference/commands.md", content="\n".join([_HEAD, *parts])))
    return files


def help_text(name: str) -> str:
    """A command's help, 100 columns wide and without colours; a process of its own, for some hand over to another."""
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    command = [sys.executable, "-m", "gpt2", name, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())
