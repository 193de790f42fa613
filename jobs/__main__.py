"""The agent of a plain sbatch file: ``python -m modeltainer.jobs --spec FILE`` (``-``: stdin), or
of a task of a job array: ``--launch FOLDER``.

The spec's file is what ``mt-submit render`` prints. It holds no secrets, so the launch's folder and
its key are made here, on the compute node, in the same registry that mt-submit and the gateway
read.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import msgspec

from modeltainer import spec as spec_file
from modeltainer.jobs import agent
from modeltainer.jobs.follower import HEAD_APPEARS_S, TICK_S
from modeltainer.jobs.site_facts import rank_of, slurm_job_id
from modeltainer.registry import launches
from modeltainer.registry.layout import Layout, new_launch_id
from modeltainer.registry.records import Submission
from modeltainer.tls import NoTlsError


def main(argv: list[str] | None = None) -> int:
    """Run one replica; exit code 0 when it ended as asked, 1 when it failed, 2 for a bad spec."""
    parser = argparse.ArgumentParser(prog="python -m modeltainer.jobs", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--spec", help="the launch spec's JSON file, or - for stdin")
    what.add_argument("--launch", type=Path, help="the folder of a launch that mt-submit has made")
    parser.add_argument(
        "--secret-env",
        action="append",
        default=[],
        metavar="NAME=VARIABLE",
        help="the engine's secret NAME is this variable of the job's environment (repeatable)",
    )
    parser.add_argument(
        "--secret-file",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="the engine's secret NAME is the content of this file (repeatable)",
    )
    options = parser.parse_args(argv)
    if options.launch is not None:
        return _run(options.launch)
    data = sys.stdin.buffer.read() if options.spec == "-" else Path(options.spec).read_bytes()
    try:
        spec = spec_file.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        print(f"error: this is not a launch spec: {error}", file=sys.stderr)
        return 2
    if rank_of(spec.resources.nodes):
        return _run(_folder_of_head(Layout(Path(spec.site.registry))))
    # The same file may be submitted many times: each run is a launch of its own.
    spec = replace(spec, launch_id=new_launch_id(spec.model, spec.replica))
    layout = Layout(Path(spec.site.registry))
    try:
        secrets = _secrets(options.secret_env, options.secret_file)
    except (KeyError, OSError, UnicodeDecodeError) as error:
        print(f"error: a secret is not there: {error}", file=sys.stderr)
        return 2
    try:
        secret = launches.new_secret(secrets, tls=spec.site.engine_tls)
    except NoTlsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    folder = launches.create(layout, spec, secret)
    launches.record_submission(
        layout,
        Submission(
            launch_id=spec.launch_id,
            model=spec.model,
            replica=spec.replica,
            executor="sbatch",
            job_id=slurm_job_id(os.environ) or str(os.getpid()),
            submitted_unix=time.time(),
            partition=os.environ.get("SLURM_JOB_PARTITION"),
            gres=spec.gres,
        ),
    )
    return _run(folder)


def _run(folder: Path) -> int:
    try:
        agent.run(str(folder))
    except agent.LaunchFailedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _folder_of_head(layout: Layout) -> Path:
    """The launch folder that the head of this job has made, as its endpoint file's name tells.

    Raises:
        TimeoutError: the head has not spoken.
    """
    job_id = slurm_job_id(os.environ)
    deadline = time.monotonic() + HEAD_APPEARS_S
    while time.monotonic() < deadline:
        for path in layout.endpoints.glob(f"{job_id}.*.json"):
            return layout.launch(path.name.removeprefix(f"{job_id}.").removesuffix(".json"))
        time.sleep(TICK_S)
    raise TimeoutError(f"the first node's agent of job {job_id} has not registered")


def _secrets(variables: list[str], files: list[str]) -> dict[str, str]:
    found = {}
    for name, _, variable in (one.partition("=") for one in variables):
        found[name] = os.environ[variable or name]
    for name, _, path in (one.partition("=") for one in files):
        found[name] = Path(path).read_text().rstrip("\n")
    return found


if __name__ == "__main__":
    sys.exit(main())
