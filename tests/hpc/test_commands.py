"""Slurm's commands: their answers, and what is said when there is none."""

from __future__ import annotations

import pytest

from modeltainer.hpc.commands import SlurmError, environment, failure, parse_version, run


def test_an_answer() -> None:
    assert run(["sh", "-c", "echo $SLURM_TIME_FORMAT $LC_ALL"]) == "%s C\n"


def test_a_missing_command() -> None:
    with pytest.raises(SlurmError, match="no-such-slurm-command was not found") as caught:
        run(["no-such-slurm-command"])
    assert caught.value.unreachable


def test_a_command_that_hangs() -> None:
    with pytest.raises(SlurmError, match="no answer within") as caught:
        run(["sleep", "60"], timeout_s=0.2)
    assert caught.value.unreachable


def test_a_refusal_keeps_slurms_words() -> None:
    script = "echo 'scancel: error: Invalid job id abc' >&2; exit 1"
    with pytest.raises(SlurmError, match="ended with status 1: Invalid job id abc") as caught:
        run(["sh", "-c", script])
    assert not caught.value.unreachable


@pytest.mark.parametrize(
    "stderr",
    [
        "slurm_load_jobs error: Unable to contact slurm controller (connect failure)",
        "squeue: error: Unable to establish control machine address\n"
        "slurm_load_jobs error: Unable to contact slurm controller (connect failure)",
        "scontrol: error: Socket timed out on send/recv operation",
        'squeue: error: Munge encode failed: Failed to access "/run/munge/munge.socket.2"',
        "slurm_load_partitions: Protocol authentication error",
        "sinfo: fatal: Could not establish a configuration source",
    ],
)
def test_no_answer_is_told_from_a_refusal(stderr: str) -> None:
    assert failure("squeue", 1, stderr).unreachable


def test_the_users_formats_and_defaults_are_kept_out() -> None:
    kept = environment(
        {"SQUEUE_FORMAT": "%i", "SINFO_FORMAT": "x", "SLURM_CONF": "/etc/s", "PATH": "/bin"}
    )
    assert kept == {
        "SLURM_CONF": "/etc/s",
        "PATH": "/bin",
        "LC_ALL": "C",
        "SLURM_TIME_FORMAT": "%s",
    }


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("slurm-wlm 22.05.8", (22, 5)),
        ("slurm 23.11.10", (23, 11)),
        ("slurm 25.05.0-0rc1", (25, 5)),
        ("slurm 26.05.5", (26, 5)),
        ("what", (0, 0)),
    ],
)
def test_versions(text: str, version: tuple[int, int]) -> None:
    assert parse_version(text) == version
