"""Job arrays: which launches go together, what the file says, and what a refusal leaves."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from modeltainer.hpc import array
from modeltainer.hpc.accounting import parse
from modeltainer.hpc.submit import SubmissionError
from modeltainer.jobs.site_facts import slurm_job_id
from modeltainer.registry import launches
from modeltainer.registry.layout import Layout, new_launch_id
from modeltainer.spec import LaunchSpec, Placement
from tests.hpc.test_options import spec_of


def replicas(count: int, **fields: object) -> list[LaunchSpec]:
    spec = spec_of(placement=Placement("gpu", "gpu:a100:1", 3600))
    numbered = [
        replace(spec, launch_id=new_launch_id(spec.model, number), replica=number)
        for number in range(count)
    ]
    return [replace(one, **fields) for one in numbered]  # type: ignore[arg-type]


def test_what_differs_in_its_number_only_goes_together() -> None:
    first, other = replicas(3), replicas(2, context=512)
    elsewhere = replicas(1, placement=Placement("cpu", None, 3600))
    found = array.groups([*first, *other, *elsewhere])
    assert found == [first, other, elsewhere]


def test_each_task_finds_its_launch_and_its_log(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "my registry")
    specs = replicas(3, prelude=("echo prelude",))
    for spec in specs:
        launches.create(layout, spec, launches.new_secret())
        (layout.log(spec.launch_id) / "submitit").mkdir()
    file = tmp_path / "array.sbatch"
    file.write_text(array.render(specs, layout))
    shellcheck = Path(sys.executable).parent / "shellcheck"
    subprocess.run([shellcheck, file], check=True)
    assert "#SBATCH --array=0-2\n" in file.read_text()
    (tmp_path / "srun").write_text('#!/bin/bash\necho "${@: -1}"\n')
    (tmp_path / "srun").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_ARRAY_JOB_ID": "7"}
    for task, spec in enumerate(specs):
        subprocess.run(
            ["bash", file], env={**environment, "SLURM_ARRAY_TASK_ID": str(task)}, check=True
        )
        log = layout.log(spec.launch_id) / "submitit" / f"7_{task}_0_log.out"
        assert log.read_text() == f"prelude\n{layout.launch(spec.launch_id)}\n"


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("echo 'sbatch: error: Invalid qos specification' >&2; exit 1", "invalid-qos"),
        ("echo 'sbatch: error: Unable to contact slurm controller' >&2; exit 1", None),
        ("echo Welcome!", "refused"),
    ],
)
def test_a_refused_array_is_told_and_cancelled(
    script: str, code: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, specs = Layout(tmp_path / "registry"), replicas(2)
    for spec in specs:
        launches.create(layout, spec, launches.new_secret())
    for name, text in {"sbatch": script, "scancel": f'echo "$@" >> {tmp_path}/cancelled'}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(SubmissionError) as caught:
        array.submit(specs, layout)
    assert caught.value.code == (code or "slurm-unavailable")
    assert f"--name=mt-{specs[0].launch_id}" in (tmp_path / "cancelled").read_text()


def test_ids_of_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout, specs = Layout(tmp_path / "registry"), replicas(2)
    for spec in specs:
        launches.create(layout, spec, launches.new_secret())
    (tmp_path / "sbatch").write_text("#!/bin/sh\necho '4711;cluster'\n")
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert [one.job_id for one in array.submit(specs, layout)] == ["4711_0", "4711_1"]
    task = {"SLURM_JOB_ID": "4713", "SLURM_ARRAY_JOB_ID": "4711", "SLURM_ARRAY_TASK_ID": "1"}
    assert slurm_job_id(task) == "4711_1"
    assert slurm_job_id({"SLURM_JOB_ID": "4713"}) == "4713"
    assert slurm_job_id({}) is None
    assert parse("4711_1|60\n4711_[2-3]|0\n12|5\n12+0|9\n") == {"4711_1": 60.0, "12": 5.0}
