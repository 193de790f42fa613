"""The options of a launch: the same in submitit's job and in the plain file."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeltainer.hpc.options import (
    early_signal_s,
    slurm_options,
    srun_arguments,
    walltime_min,
    without_login_state,
)
from modeltainer.hpc.sbatch import render
from modeltainer.hpc.submit import slurm_executor
from modeltainer.registry.layout import Layout
from modeltainer.spec import LaunchSpec, Placement, Resources, Share, Site, Source, decode


def spec_of(**changes: Any) -> LaunchSpec:
    spec = LaunchSpec(
        launch_id="tiny-r0-abc234",
        model="tiny",
        replica=0,
        engine="llamacpp",
        runtime="native",
        source=Source("path", "/shared/it's.gguf"),
        resources=Resources(cpus=4, memory_mib=8000, walltime_s=3630),
        site=Site(registry="/shared/registry", cache="/shared/cache"),
        placement=Placement("main", None, 3630, ("partition main: the cluster's default",)),
    )
    return replace(spec, **changes)


FULL = spec_of(
    resources=Resources(
        gpus=1,
        cpus=8,
        memory_mib=32000,
        walltime_s=7200,
        account="proj'1",
        qos="high",
        constraint="a100&ib",
        nodelist="c1",
    ),
    placement=Placement("gpu", "gpu:a100_1g.10gb:1", 7200, ("it is free now",)),
    prelude=("module load cuda/12.4", 'export X="a b"'),
    engine_args={"note": "$HOME `date` 'x' \\"},
)


def sbatch_lines(text: str) -> dict[str, str]:
    found = {}
    for line in text.splitlines():
        if line.startswith("#SBATCH "):
            (word,) = shlex.split(line.removeprefix("#SBATCH "))
            name, _, value = word.removeprefix("--").partition("=")
            assert name not in found
            found[name] = value
    return found


@pytest.fixture
def srun_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """submitit only looks whether there is one."""
    (tmp_path / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")


def submitit_text(spec: LaunchSpec, root: Path) -> str:
    executor = slurm_executor(spec, Layout(root))
    text: str = executor._make_submission_file_text("COMMAND", "uid")
    return text


@pytest.mark.usefixtures("srun_on_path")
@pytest.mark.parametrize("spec", [spec_of(), FULL, spec_of(placement=None)])
def test_both_files_have_the_same_options(spec: LaunchSpec, tmp_path: Path) -> None:
    ours, theirs = sbatch_lines(render(spec)), sbatch_lines(submitit_text(spec, tmp_path))
    log = theirs.pop("output")
    assert log.startswith(str(tmp_path / "launches" / spec.launch_id / "log"))
    assert ours.pop("output") == "%x.%j.log"
    assert ours == theirs


@pytest.mark.usefixtures("srun_on_path")
def test_submitit_runs_the_prelude_and_srun_as_the_plain_file_does(tmp_path: Path) -> None:
    text, plain = submitit_text(FULL, tmp_path), render(FULL)
    for line in FULL.prelude:
        assert line in text.splitlines()
        assert line in plain.splitlines()
    for file in (text, plain):
        (command,) = [line for line in file.splitlines() if line.startswith("srun ")]
        words = shlex.split(command)
        assert {"--unbuffered", "--cpus-per-task=8", "--open-mode=append"} <= set(words)
    assert "wckey" not in text


@pytest.mark.parametrize(
    ("gres", "step"),
    [("gpu:a100:1", None), ("shard:2", None), ("shard:a100:2", "--gres=shard:2")],
)
def test_a_step_asks_for_typed_shards_by_their_number(gres: str, step: str | None) -> None:
    """One that inherits them with their type is refused."""
    spec = spec_of(placement=Placement("gpu", gres, 3630, share=Share(0.5, "a100")))
    assert sbatch_lines(render(spec))["gres"] == gres
    asked = [one for one in srun_arguments(spec) if one.startswith("--gres")]
    assert asked == ([] if step is None else [step])


def test_every_option() -> None:
    assert sbatch_lines(render(FULL)) == {
        "job-name": "mt-tiny-r0-abc234",
        "partition": "gpu",
        "account": "proj'1",
        "qos": "high",
        "nodes": "1",
        "ntasks-per-node": "1",
        "cpus-per-task": "8",
        "mem": "32000M",
        "gres": "gpu:a100_1g.10gb:1",
        "constraint": "a100&ib",
        "nodelist": "c1",
        "time": "120",
        "signal": "URG@120",
        "open-mode": "append",
        "output": "%x.%j.log",
        "no-requeue": "",
    }


@pytest.mark.parametrize("spec", [spec_of(), FULL, spec_of(placement=None)])
def test_the_plain_file_is_clean_and_carries_the_spec(spec: LaunchSpec, tmp_path: Path) -> None:
    text = render(spec, python="/opt/my python/bin/python3")
    file = tmp_path / "job.sbatch"
    file.write_text(text)
    shellcheck = Path(sys.executable).parent / "shellcheck"
    for check in ([str(shellcheck), "--severity=style"], ["bash", "-n"]):
        done = subprocess.run([*check, str(file)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    document = re.search(r"<<'MODELTAINER_SPEC'\n(.*)\nMODELTAINER_SPEC\n\Z", text, re.DOTALL)
    assert document
    assert decode(document[1].encode()) == spec
    assert "'/opt/my python/bin/python3' -m modeltainer.jobs --spec -" in text


def test_the_shell_hands_the_spec_over_unchanged(tmp_path: Path) -> None:
    """Run by bash with an srun that runs its command: the agent's stdin is the spec."""
    (tmp_path / "srun").write_text('#!/bin/bash\nshift 3\nexec "$@"\n')
    (tmp_path / "python").write_text('#!/bin/bash\necho "$@" >&2\nexec cat\n')
    for name in ("srun", "python"):
        (tmp_path / name).chmod(0o755)
    text = render(spec_of(engine_args=FULL.engine_args), python=str(tmp_path / "python"))
    done = subprocess.run(
        ["bash"],
        input=text.encode(),
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        check=True,
    )
    assert decode(done.stdout).engine_args == FULL.engine_args
    assert done.stderr.decode().split() == ["-m", "modeltainer.jobs", "--spec", "-"]


@given(st.integers(1, 10**7), st.integers(1, 10**6), st.none() | st.integers(1, 10**7))
def test_times_stay_within_limits(walltime: int, early: int, least: int | None) -> None:
    spec = spec_of(
        placement=Placement("p", None, walltime),
        resources=Resources(time_min_s=least),
        early_signal_s=early,
    )
    minutes, signal = walltime_min(spec), early_signal_s(spec)
    assert minutes == max(1, walltime // 60)
    shortest = sbatch_lines(render(spec)).get("time-min")
    assert (shortest is None) is (least is None)
    assert 1 <= int(shortest or minutes) <= minutes
    assert 1 <= signal <= min(int(shortest or minutes) * 30, 65535)
    assert signal <= early


@given(
    st.builds(
        Resources,
        partition=st.none() | st.text(min_size=1, max_size=10),
        constraint=st.none() | st.text("ab&|*[]() '\"$", min_size=1, max_size=10),
        account=st.none() | st.text(min_size=1, max_size=10),
    )
)
def test_no_value_can_break_out_of_its_line(resources: Resources) -> None:
    for option in slurm_options(spec_of(resources=resources, placement=None), "%j.out"):
        (word,) = shlex.split(option.line.removeprefix("#SBATCH "))
        assert word.removeprefix(f"--{option.name}").removeprefix("=") == str(option.value or "")


def test_the_jobs_environment_has_no_login_state_and_no_credentials() -> None:
    kept = without_login_state(
        {
            "PATH": "/bin",
            "LD_LIBRARY_PATH": "/opt/python/lib",
            "BASH_FUNC_module%%": "() { :; }",
            "SLURM_CONF": "/etc/slurm.conf",
            "SLURM_JOB_ID": "1",
            "SLURM_MEM_PER_NODE": "1",
            "SBATCH_PARTITION": "theirs",
            "XDG_RUNTIME_DIR": "/run/user/1",
            "SSH_AUTH_SOCK": "/tmp/x",
            "HF_TOKEN": "hf_x",
            "OPENAI_API_KEY": "sk",
            "DB_PASSWORD": "p",
            "TOKENIZERS_PARALLELISM": "false",
        }
    )
    assert set(kept) == {
        "PATH",
        "LD_LIBRARY_PATH",
        "BASH_FUNC_module%%",
        "SLURM_CONF",
        "TOKENIZERS_PARALLELISM",
    }
