"""Submitting: refusals in words, nothing left behind, and real jobs on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from modeltainer import service
from modeltainer.config.schema import Config
from modeltainer.hpc import submit as submitting
from modeltainer.hpc.cancel import cancel, cancel_local
from modeltainer.hpc.submit import SubmissionError, refusal, submit
from modeltainer.registry import launches
from modeltainer.registry.layout import Layout
from modeltainer.registry.records import Submission
from modeltainer.scheduler import local_sight, start_ticks
from modeltainer.spec import LaunchSpec, Site, Source, encode
from tests.hpc.test_options import spec_of


@pytest.mark.parametrize(
    ("stderr", "code"),
    [
        (
            "sbatch: error: invalid partition specified: nosuch\n"
            "sbatch: error: Batch job submission failed: Invalid partition name specified",
            "no-such-partition",
        ),
        (
            "sbatch: error: Batch job submission failed: Requested node configuration is not "
            "available",
            "not-available",
        ),
        (
            "sbatch: error: Memory specification can not be satisfied\n"
            "sbatch: error: Batch job submission failed: Requested node configuration is not "
            "available",
            "not-enough-memory",
        ),
        (
            "sbatch: error: Batch job submission failed: Invalid account or account/partition "
            "combination specified",
            "invalid-account",
        ),
        (
            "sbatch: error: Batch job submission failed: Requested time limit is invalid (missing "
            "or exceeds some limit)",
            "walltime-too-long",
        ),
        ("sbatch: error: Batch job submission failed: Invalid qos specification", "invalid-qos"),
        (
            "sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission "
            "failed: Job violates accounting/QOS policy (job submit limit, user's size and/or time "
            "limits)",
            "over-limit",
        ),
        (
            "sbatch: error: Batch job submission failed: User's group not permitted to use this "
            "partition",
            "partition-not-allowed",
        ),
        ("sbatch: error: Invalid generic resource (gres) specification", "no-such-gpu-type"),
        (
            "sbatch: error: Batch job submission failed: Invalid feature specification",
            "no-such-feature",
        ),
        (
            "sbatch: error: Batch job submission failed: Invalid node name specified",
            "no-such-node",
        ),
        ("sbatch: error: invalid number of nodes (-N 2-1)", "no-such-node"),
        (
            "sbatch: error: CPU count per node can not be satisfied",
            "not-enough-cpus",
        ),
        (
            "sbatch: error: Batch job submission failed: Required partition not available "
            "(inactive or drain)",
            "partition-down",
        ),
        (
            "sbatch: error: Batch job submission failed: Unable to contact slurm controller "
            "(connect failure)",
            "slurm-unavailable",
        ),
        (
            "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",
            "slurm-unavailable",
        ),
        ("sbatch: error: lua: please give a project\nsbatch: error: Unspecified error", "refused"),
        ("", "refused"),
    ],
)
def test_refusals_in_words(stderr: str, code: str) -> None:
    error = refusal(stderr)
    assert error.code == code
    assert error.message
    assert error.hint


def test_a_sites_own_words_are_shown() -> None:
    stderr = "sbatch: error: lua: please give a project\nsbatch: error: Unspecified error"
    assert "please give a project" in refusal(stderr).message


def launched(root: Path, spec: LaunchSpec | None = None) -> tuple[LaunchSpec, Layout]:
    spec = spec or spec_of(
        source=Source("path", str(root / "x.gguf")),
        site=Site(str(root / "registry"), str(root / "cache")),
    )
    layout = Layout(root / "registry")
    launches.create(layout, spec, launches.new_secret())
    return spec, layout


@pytest.fixture
def slurm_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands that note how they were called; ``sbatch`` runs the file ``verdict``."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sbatch", "srun", "scancel"):
        script = f'#!/bin/sh\necho "$@" >> {tmp_path}/{name}.calls\n'
        if name == "sbatch":
            script += f"env > {tmp_path}/sbatch.env\n. {tmp_path}/verdict\n"
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return tmp_path


def test_a_job_is_submitted_from_a_clean_environment(
    slurm_that: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (slurm_that / "verdict").write_text("echo Submitted batch job 42")
    monkeypatch.setenv("SBATCH_PARTITION", "theirs")
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    spec, layout = launched(slurm_that)
    submission = submit(spec, layout)
    assert (submission.job_id, submission.executor) == ("42", "slurm")
    assert submission.partition == "main"
    environment = (slurm_that / "sbatch.env").read_text()
    assert "SBATCH_PARTITION" not in environment
    assert "HF_TOKEN" not in environment
    assert os.environ["HF_TOKEN"] == "hf_x"
    assert not (slurm_that / "scancel.calls").exists()


def test_a_refused_job(slurm_that: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = "sbatch: error: Batch job submission failed: Invalid qos specification"
    (slurm_that / "verdict").write_text(f"echo '{words}' >&2; exit 1")
    spec, layout = launched(slurm_that)
    with pytest.raises(SubmissionError, match="QOS is unknown") as refused:
        submit(spec, layout)
    assert refused.value.code == "invalid-qos"
    assert capfd.readouterr().err == ""


def test_an_sbatch_that_hangs(slurm_that: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (slurm_that / "verdict").write_text("exec sleep 30")
    monkeypatch.setattr(submitting, "SBATCH_TIMEOUT_S", 1)
    spec, layout = launched(slurm_that)
    with pytest.raises(SubmissionError, match="no answer within 1 s"):
        submit(spec, layout)
    assert f"--name=mt-{spec.launch_id}" in (slurm_that / "scancel.calls").read_text()


def test_ctrl_c_while_sbatch_runs(slurm_that: Path) -> None:
    (slurm_that / "verdict").write_text(f"kill -INT {os.getpid()}; exec sleep 3")
    spec, layout = launched(slurm_that)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        submit(spec, layout)
    assert time.monotonic() - began < 40
    assert f"--name=mt-{spec.launch_id}" in (slurm_that / "scancel.calls").read_text()


def test_cancel_asks_slurm_once(slurm_that: Path) -> None:
    cancel([Submission("a-r0-aaaaaa", "a", 0, "slurm", job, 0.0) for job in ("7", "8", "9")])
    assert (slurm_that / "scancel.calls").read_text() == "7 8 9\n"


def test_a_stranger_on_a_reused_pid_is_left_alone() -> None:
    stranger = subprocess.Popen(["sleep", "30"])
    try:
        ticks = start_ticks(stranger.pid)
        assert ticks is not None
        cancel_local(stranger.pid, ticks + 1)
        cancel_local(stranger.pid, None)
        time.sleep(0.1)
        assert stranger.poll() is None
        cancel_local(stranger.pid, ticks)
        assert stranger.wait(5) == -signal.SIGTERM
    finally:
        stranger.kill()


SUBMITTER = """
import sys
from pathlib import Path
from modeltainer import spec
from modeltainer.hpc.submit import submit
from modeltainer.registry.layout import Layout
from modeltainer.registry.records import encode
one = spec.decode(Path(sys.argv[1]).read_bytes())
print(encode(submit(one, Layout(Path(one.site.registry)), "local")).decode(), end="", flush=True)
if sys.argv[2:] == ["wait"]:
    import time
    time.sleep(60)
"""


@pytest.fixture
def engine(tmp_path: Path) -> LaunchSpec:
    """A launch whose engine only waits, started by the real agent; nothing is served."""
    script = tmp_path / "engine"
    script.write_text("#!/bin/bash\nwhile :; do sleep 0.1; done\n")
    script.chmod(0o755)
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    return spec_of(
        source=Source("path", str(tmp_path / "x.gguf")),
        site=Site(str(tmp_path / "registry"), str(tmp_path / "cache")),
        command=(str(script),),
        prelude=("export FROM_PRELUDE=1",),
        placement=None,
    )


def gone(submission: Submission, within_s: float = 20.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if local_sight(submission).residence == "gone":
            return True
        time.sleep(0.05)
    return False


def agent_of(submission: Submission) -> int:
    """The agent's pid: the controller's only child, as soon as it is at work. submitit's controller
    notes a child when it has been started, and has nobody to pass a signal on to before."""
    children = Path(f"/proc/{submission.job_id}/task/{submission.job_id}/children")
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for found in children.read_text().split():
            if b"submitit.core._submit" in Path(f"/proc/{found}/cmdline").read_bytes():
                time.sleep(0.2)
                return int(found)
        time.sleep(0.05)
    raise AssertionError("no agent")


def read(line: bytes) -> Submission:
    fields = json.loads(line)
    return Submission(**fields)


def test_a_local_job_holds_no_pipe_and_survives_ctrl_c(engine: LaunchSpec, tmp_path: Path) -> None:
    spec, layout = launched(tmp_path, engine)
    file = tmp_path / "spec.json"
    file.write_bytes(encode(spec))
    # In a process group of its own, as a shell starts it; `wait` keeps it there.
    shell = subprocess.Popen(
        [sys.executable, "-c", SUBMITTER, str(file), "wait"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert shell.stdout is not None
    submission = read(shell.stdout.readline())
    agent = agent_of(submission)
    try:
        for number in (signal.SIGTSTP, signal.SIGHUP, signal.SIGINT):
            os.killpg(shell.pid, number)
        os.killpg(shell.pid, signal.SIGCONT)
        assert shell.wait(10) != 0
        assert shell.stdout.read() == b"", "the pipe ends with mt-submit, not with the server"
        time.sleep(0.5)
        assert local_sight(submission).residence == "running"
        assert os.getsid(agent) == agent
        environment = Path(f"/proc/{agent}/environ").read_bytes()
        assert b"FROM_PRELUDE=1" in environment.split(b"\0")
    finally:
        cancel([submission])
    assert gone(submission)
    assert start_ticks(agent) is None
    assert (layout.log(spec.launch_id) / "submitit" / "controller.log").exists()


def test_a_local_job_is_cancelled_by_its_own_submitter(engine: LaunchSpec, tmp_path: Path) -> None:
    spec, layout = launched(tmp_path, engine)
    submission = submit(spec, layout, "local")
    assert local_sight(submission).residence == "running"
    agent_of(submission)
    cancel([submission])
    assert gone(submission)
    cancel([submission])  # gone is fine


# As submitit's controller is between starting a process and noting it.
MISSES_THE_FIRST = """
import signal, sys
seen = []
signal.signal(signal.SIGTERM, lambda *_: sys.exit() if seen else seen.append(1))
print(flush=True)
while True:
    signal.pause()
"""


def test_stop_asks_a_local_job_again_that_missed_its_signal(tmp_path: Path) -> None:
    spec, layout = launched(tmp_path)
    job = subprocess.Popen([sys.executable, "-c", MISSES_THE_FIRST], stdout=subprocess.PIPE)
    assert job.stdout is not None
    job.stdout.readline()
    launches.record_submission(
        layout, submitting.submission(spec, "local", str(job.pid), 0.0, start_ticks(job.pid))
    )
    threading.Thread(target=job.wait, daemon=True).start()  # else a zombie stays
    config = Config.model_validate({"site": {"registry": str(tmp_path / "registry")}})
    report = service.stop([spec.launch_id], config=config, wait_s=10)
    assert report.stopped == [spec.launch_id]
    assert report.still_running == []
