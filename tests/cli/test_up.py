"""``mt-submit up``, ``ls``, ``logs``, ``stop``, ``render``: real launches on this machine."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path

import pytest

from modeltainer import service
from modeltainer.cli.placement_options import take_overrides
from modeltainer.view import Row
from tests.cli.conftest import MODELS, MakeShell, Shell


def test_dry_run_plans_and_writes_nothing(shell: Shell) -> None:
    result = shell.run("up", "small", "--replicas", "2", "--dry-run", "--explain")
    assert result.exit_code == 0
    assert [line.split()[:2] for line in result.stdout.splitlines()[1:]] == [
        ["tiny", "0"],
        ["tiny", "1"],
    ]
    assert not shell.layout.root.exists()


def test_options_override_the_file(shell: Shell) -> None:
    options = ["--time", "90m", "--cpus", "3", "--mem", "2GiB", "--gpus", "1", "--mig", "1g.10gb"]
    [spec] = shell.json("up", "tiny", "--dry-run", *options, "--time-min", "30m")
    wanted = spec["resources"]
    assert wanted["time_min_s"] == 1800
    assert (wanted["walltime_s"], wanted["cpus"], wanted["memory_mib"]) == (5400, 3, 2048)
    assert (wanted["gpus"], wanted["mig"]) == (1, "1g.10gb")


def test_a_part_of_a_gpu_is_asked_for(shell: Shell) -> None:
    [spec] = shell.json("up", "tiny", "--shared", "--dry-run")
    assert (spec["resources"]["gpus"], spec["resources"]["shared"]) == (1, True)
    [spec] = shell.json("up", "tiny", "--no-shared", "--dry-run")
    assert (spec["resources"]["gpus"], spec["resources"]["shared"]) == (0, False)
    refused = shell.run("up", "tiny", "--shared", "--gpus", "2")
    assert refused.exit_code != 0
    assert "resources.shared is for a part of one GPU" in refused.stderr


def test_mig_without_a_profile_does_not_swallow_the_model(shell: Shell) -> None:
    [spec] = shell.json("up", "--mig", "tiny", "--dry-run")
    assert (spec["model"], spec["resources"]["mig"]) == ("tiny", True)


@pytest.mark.parametrize(
    ("given", "no_mig", "mig", "swallowed"),
    [
        (None, False, None, []),
        ("", False, True, []),
        ("2g.20gb", False, "2g.20gb", []),
        ("1g.10gb+me", False, "1g.10gb+me", []),
        ("qwen", False, True, ["qwen"]),
        (None, True, False, []),
    ],
)
def test_mig_option(given: str | None, no_mig: bool, mig: object, swallowed: list[str]) -> None:
    names = "nodes gpus gpu_type gpu_memory cpus mem time partition account qos nodelist runtime"
    more = ["shared", "time_min"]
    options = {**dict.fromkeys([*names.split(), *more]), "mig": given, "no_mig": no_mig}
    overrides, taken = take_overrides(options)
    assert (overrides.mig, taken) == (mig, swallowed)
    assert options == {}


@pytest.mark.parametrize(
    "arguments",
    [
        ["up"],
        ["up", "tiny", "--time", "soon"],
        ["up", "tiny", "--mem", "much"],
        ["up", "tiny", "--mig", "--no-mig"],
        ["up", "tiny", "--timeout", "5m"],
        ["up", "tiny", "--spare-partition", "spare"],
        ["up", "tiny", "--min", "2", "--max", "2", "--spare-partition", "spare"],
        ["stop"],
        ["stop", "tiny", "--all"],
        ["ls", "--watch", "--json"],
    ],
    ids=" ".join,
)
def test_wrong_usage(shell: Shell, arguments: list[str]) -> None:
    result = shell.run(*arguments)
    assert result.exit_code == 2
    assert not shell.layout.root.exists()


def test_unknown_model_names_the_nearest(shell: Shell) -> None:
    result = shell.run("up", "tinny")
    assert result.exit_code == 9
    assert "in the configuration [no-such-model]\n" in result.stderr
    assert "did you mean 'tiny'?" in result.stderr
    assert not shell.layout.root.exists()


def test_truncated_weights_are_refused_before_anything_is_written(
    make_shell: MakeShell, tmp_path: Path, tiny_model: Path
) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(tiny_model.read_bytes()[:1000])
    shell = make_shell(MODELS.replace("{model}", str(cut)))
    result = shell.run("up", "tiny")
    assert result.exit_code == 3
    assert result.stderr.count("error:") == 1
    assert "hint: download it again" in result.stderr
    assert not shell.layout.root.exists()


def test_registry_that_cannot_be_written(shell: Shell) -> None:
    shell.layout.root.write_text("a file where the folder should be")
    result = shell.run("up", "tiny")
    assert result.exit_code == 1
    assert str(shell.layout.root) in result.stderr
    assert " [registry-unwritable]\n" in result.stderr
    assert "hint:" in result.stderr


def test_tls_is_refused_where_the_engine_has_none(make_shell: MakeShell) -> None:
    shell = make_shell(MODELS.replace("site:\n", "site:\n  engine_tls: true\n", 1))
    result = shell.run("up", "tiny")
    assert result.exit_code == 3
    assert "the embedded runtime has no TLS" in result.stderr
    assert not shell.layout.root.exists()


def test_tls_without_its_package(make_shell: MakeShell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    shell = make_shell(MODELS.replace("site:\n", "site:\n  engine_tls: true\n", 1))
    result = shell.run("up", "sleeps")
    assert result.exit_code == 1
    assert " [no-tls]\nhint: pip install 'modeltainer[tls]'" in result.stderr
    assert shell.left_behind() == []


def test_from_up_to_stop(shell: Shell) -> None:
    result = shell.run("up", "tiny", "--wait")
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert result.stderr.splitlines()[-2].endswith("→ ready")
    assert "loading" in result.stderr
    assert "mt-submit gateway start" in result.stderr.splitlines()[-1]
    [row] = shell.json("ls")
    assert (row["model"], row["state"], row["failed"]) == ("tiny", "ready", False)
    table = shell.run("ls").stdout.splitlines()
    assert table[0].split()[:3] == ["MODEL", "STATE", "NODE"]
    assert row["url"] in table[1]
    assert "ready after" in shell.run("logs", "tiny", "--agent").stdout
    assert len(shell.run("logs", row["launch_id"], "-n", "2").stdout.splitlines()) == 2
    stopped = shell.run("stop", row["job_id"])
    assert stopped.stdout == f"{row['launch_id']}: stopped\n"
    assert shell.left_behind() == []
    assert shell.json("ls") == []


def test_json_of_up_is_on_standard_output_alone(shell: Shell) -> None:
    result = shell.run("up", "tiny", "--wait", "--json")
    [row] = json.loads(result.stdout)
    assert row["state"] == "ready"
    assert row["loading_s"] > 0


def test_failed_launch_says_why(shell: Shell) -> None:
    result = shell.run("up", "dies", "--wait")
    assert result.exit_code == 6
    assert "memory is too small for the model [out-of-memory]\n" in result.stderr
    assert "hint:" in result.stderr
    assert "the log's last lines:" in result.stderr
    [row] = shell.json("ls")
    assert row["failed"]
    assert row["cause"]["code"] == "out-of-memory"
    assert "memory is too small for the model [out-of-memory]" in shell.run("ls").stdout
    assert shell.run("stop", "dies").exit_code == 0
    assert shell.left_behind() == []


def test_timeout_leaves_the_launch(shell: Shell) -> None:
    result = shell.run("up", "sleeps", "--wait", "--timeout", "1s")
    assert result.exit_code == 7
    assert "mt-submit stop" in result.stderr
    assert [row["model"] for row in shell.json("ls")] == ["sleeps"]


def test_ctrl_c_while_waiting_says_what_still_runs(shell: Shell) -> None:
    process = shell.start("up", "sleeps", "--wait")
    assert process.stderr is not None
    launch_id = process.stderr.readline().split()[1]
    while "loading" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert f"still there: {launch_id}" in said
    assert f"mt-submit stop {launch_id}" in said
    assert "Traceback" not in said
    assert [row["launch_id"] for row in shell.json("ls")] == [launch_id]


def test_ctrl_c_while_submitting_leaves_nothing(shell: Shell) -> None:
    process = shell.start("up", "sleeps", "--replicas", "40")
    deadline = time.monotonic() + 30
    while not shell.left_behind() and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "nothing was left behind" in said
    assert "Traceback" not in said
    assert not list(shell.layout.launches.iterdir())


def test_ctrl_c_while_the_queue_is_looked_at_leaves_nothing(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> list[Row]:
        raise KeyboardInterrupt

    monkeypatch.setattr(service, "list_launches", interrupted)
    result = shell.run("up", "sleeps", "--replicas", "2")
    assert result.exit_code == 130
    assert "nothing was left behind" in result.output
    monkeypatch.undo()
    assert shell.left_behind() == []


def test_following_a_log_ends_with_the_launch(shell: Shell) -> None:
    shell.run("up", "tiny", "--wait")
    process = shell.start("logs", "tiny", "--agent", "--follow")
    time.sleep(0.5)
    shell.run("stop", "tiny")
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "ended: stopped" in out


@pytest.mark.parametrize("command", ["logs", "stop"])
def test_nothing_of_that_name(shell: Shell, command: str) -> None:
    result = shell.run(command, "nothing")
    assert result.exit_code == 9
    assert "hint:" in result.stderr


def test_engine_log_that_is_not_there_yet(shell: Shell) -> None:
    shell.run("up", "sleeps")
    launch_id = shell.json("ls")[0]["launch_id"]
    log = shell.layout.log(launch_id) / "engine.log"
    deadline = time.monotonic() + 20
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    log.unlink()
    result = shell.run("logs", "sleeps")
    assert result.exit_code == 9
    assert "--agent" in result.stderr


def test_render_prints_an_sbatch_file_even_without_slurm(shell: Shell) -> None:
    result = shell.run("render", "tiny", "--partition", "cpu", "--time", "30m")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("#!/bin/bash")
    assert "#SBATCH --partition=cpu" in result.stdout
    assert "#SBATCH --time=30" in result.stdout
    assert shell.run("render", "nope").exit_code == 9


def test_verbose_shows_the_traceback_of_a_failure(shell: Shell) -> None:
    shell.layout.root.write_text("")
    process = shell.start("--verbose", "up", "tiny")
    _, said = process.communicate(timeout=30)
    assert "Traceback" in said
    assert process.returncode == 1
