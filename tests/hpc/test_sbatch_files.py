"""The example batch files are current, and clean."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from modeltainer.hpc import gateway_job

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "scripts" / "slurm"


def test_they_are_current(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "tools" / "sbatch_files.py", tmp_path], check=True)
    made = {file.name: file.read_text() for file in tmp_path.iterdir()}
    there = {file.name: file.read_text() for file in FOLDER.glob("*.sbatch")}
    assert made == there, "run: make schema"


@pytest.mark.parametrize("chain", [False, True])
def test_a_gateways_file_takes_any_words(tmp_path: Path, chain: bool) -> None:
    text = gateway_job.render(
        tmp_path / "my models.yaml",
        walltime_s=60,
        drain_s=300,
        options={"partition": "a b", "account": None},
        prelude=["module load apptainer"],
        chain=chain,
    )
    file = tmp_path / "gateway.sbatch"
    file.write_text(text)
    subprocess.run([Path(sys.executable).parent / "shellcheck", file], check=True)
    assert "#SBATCH --partition='a b'\n" in text
    assert "account" not in text
    assert "#SBATCH --time=1\n" in text
    assert "#SBATCH --signal=TERM@30\n" in text  # never before half of it is over
    assert ("--dependency=" in text) is chain
