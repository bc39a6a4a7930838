"""The example for Slurm: its syntax, and that what it calls exists."""

import re
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "slurm.sbatch"


def test_syntax() -> None:
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)


def test_torchrun_knows_its_options() -> None:
    called = set(
        re.findall(r"--[a-z-]+(?==)", SCRIPT.read_text(encoding="utf-8").split("torchrun \\")[1].split("-m gpt2")[0])
    )
    assert {"--nnodes", "--rdzv-backend", "--max-restarts", "--shutdown-timeout"} <= called
    from torch.distributed.run import get_args_parser

    known = {option for action in get_args_parser()._actions for option in action.option_strings}
    assert called <= known
