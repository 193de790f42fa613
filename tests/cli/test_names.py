"""Completion of names, as a shell asks for it."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.cli.conftest import Shell


def complete(shell: Shell, words: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", "from modeltainer.cli.main import main; main()"],
        env={
            **os.environ,
            "_MT_SUBMIT_COMPLETE": "bash_complete",
            "COMP_WORDS": f"mt-submit {words}",
            "COMP_CWORD": str(len(words.split(" "))),
            "MODELTAINER_CONFIG": str(shell.config),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_model_names_and_aliases_come_from_the_file(shell: Shell) -> None:
    assert complete(shell, "up ") == ["tiny", "small", "dies", "sleeps"]
    assert complete(shell, "up s") == ["small", "sleeps"]


def test_the_file_of_the_config_option_counts(shell: Shell) -> None:
    other = shell.folder / "other.yaml"
    other.write_text("models: {elsewhere: {engine: vllm, source: a/b}}")
    assert complete(shell, f"--config {other} chat e") == ["elsewhere"]


def test_launches_complete_for_stop(shell: Shell) -> None:
    assert complete(shell, "stop ") == []
    shell.run("up", "sleeps")
    launch_id = os.listdir(shell.layout.launches)[0]
    assert complete(shell, "stop sl") == ["sleeps", launch_id]


def test_a_broken_file_completes_nothing_and_says_nothing(shell: Shell) -> None:
    shell.config.write_text("models: [")
    assert complete(shell, "up ") == []
