"""What only a compute node can show: a short job reads a token from the shared folder, writes one
back, and is visited over the network."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modeltainer.cli.doctor_checks import Finding, Site, port_range

if TYPE_CHECKING:
    from modeltainer.config.schema import Config

QUEUE_S = 60
"""How long the job may wait for a free node."""
RUN_S = 60.0


@dataclass(frozen=True)
class _Outcome:
    """What became of the job: its answer and how login reached it, or Slurm's words."""

    answer: dict[str, Any] | None
    seen_after_s: float = 0.0
    reached: str = ""
    """Empty when the visit succeeded, else why not."""
    said: str = ""


def node_findings(site: Site) -> Iterator[Finding]:
    """Run the job and report; nothing is left of it. Takes a few seconds on an idle cluster."""
    if site.config is None or site.executor == "local":
        return
    folder = site.config.site.registry / f"doctor-{secrets.token_hex(6)}"
    try:
        folder.mkdir(mode=0o700)
        outcome = _run(site.config, site.partition, folder)
    except OSError as error:
        yield Finding("compute node", "failure", f"no job could be run: {error}")
        return
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if outcome.answer is None:
        yield no_answer(outcome.said)
        return
    yield from _findings(site, outcome)


def _run(config: Config, partition: str | None, folder: Path) -> _Outcome:
    from modeltainer.hpc.cancel import cancel_named
    from modeltainer.hpc.commands import SlurmError, environment
    from modeltainer.hpc.options import without_login_state

    token = secrets.token_hex(16)
    (folder / "spec.json").write_bytes(_spec(config))
    (folder / "token").write_text(token)
    name = f"mt-{folder.name}"
    log = folder / "srun.log"
    began = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(
            _srun(config, partition, name, folder),
            env=environment(without_login_state(os.environ)),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,  # Ctrl-C is ours to deal with
        )
    try:
        answer = _wait_for_answer(process, folder / "answer.json", began + QUEUE_S + RUN_S)
        if answer is None:
            return _Outcome(None, said=log.read_text(errors="replace"))
        seen_after = time.monotonic() - began
        reached = _visit(answer, token)
        return _Outcome(answer, seen_after, reached)
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(3)
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(SlurmError):
                cancel_named(name)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)


def _spec(config: Config) -> bytes:
    """A spec that launches nothing: it tells the node the site's ports and interface."""
    from modeltainer import spec as spec_file
    from modeltainer.spec import LaunchSpec, Resources, Source

    site = config.site
    return spec_file.encode(
        LaunchSpec(
            launch_id="doctor-r0-doctor",
            model="doctor",
            replica=0,
            engine="llamacpp",
            runtime="native",
            source=Source("path", "none"),
            resources=Resources(),
            site=spec_file.Site(
                registry=str(site.registry),
                cache=str(site.cache),
                ports=port_range(site.ports),
                host_interface=site.host_interface,
            ),
        )
    )


def _srun(config: Config, partition: str | None, name: str, folder: Path) -> list[str]:
    defaults = config.site.defaults
    partition = partition or defaults.partition or next(iter(config.site.partitions), None)
    at = config.site.partitions.get(partition or "")
    wishes = {
        "partition": partition,
        "account": defaults.account or (at.account if at else None),
        "qos": defaults.qos or (at.qos if at else None),
        "constraint": defaults.constraint,
    }
    command = shlex.join([sys.executable, "-m", "modeltainer.cli.node_probe", str(folder)])
    script = "\n".join([*config.site.prelude, f"exec {command}"])
    return [
        "srun",
        f"--job-name={name}",
        "--nodes=1",
        "--ntasks=1",
        "--cpus-per-task=1",
        "--mem=512M",
        "--time=2",
        f"--immediate={QUEUE_S}",
        *(f"--{option}={value}" for option, value in wishes.items() if value),
        "bash",
        "-c",
        script,
    ]


def _wait_for_answer(
    process: subprocess.Popen[bytes], file: Path, deadline: float
) -> dict[str, Any] | None:
    ended_at: float | None = None
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError):
            os.listdir(file.parent)  # makes an NFS client look again
            answer: dict[str, Any] = json.loads(file.read_bytes())
            return answer
        if process.poll() is not None:
            ended_at = time.monotonic() if ended_at is None else ended_at
            if time.monotonic() - ended_at > 2:  # its last file may still be on its way
                return None
        time.sleep(0.1)
    return None


def _visit(answer: dict[str, Any], token: str) -> str:
    try:
        with socket.create_connection((answer["host"], answer["port"]), timeout=5) as visit:
            said = visit.makefile().read()
    except OSError as error:
        return error.strerror or str(error)
    return "" if said == token else "another program answered there"


def no_answer(said: str) -> Finding:
    """Why the job gave no answer, from what srun and the job printed."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    # srun's own last word is only that the task ended; what the task said is before it.
    telling = [line for line in lines if not re.search(r"task \d+: Exited|Terminating", line)]
    last = re.sub(r"^srun: error: ", "", (telling or lines or ["no output"])[-1])
    name = "compute node"
    if re.search(r"Immediate execution impossible|nodes are busy|ReqNodeNotAvail", said):
        return Finding(
            name,
            "warning",
            f"no node was free within {QUEUE_S} s, so none was looked at",
            "try again later, or --partition with a free node; --no-job leaves this out",
        )
    if re.search(r"No module named|No such file or directory|NotFoundError|not found", said):
        return Finding(
            name,
            "failure",
            f"this Python, its packages or the registry are not there: {last}",
            "install modeltainer, and set site.registry, on the shared filesystem",
        )
    refused = re.search(r"^srun: error: (.*)\n?srun: error: Unable to allocate", said, re.M)
    if "Unable to allocate" in said:
        return Finding(
            name,
            "failure",
            f"Slurm ran no job: {refused[1] if refused else last}",
            "check partition, account and qos in site.defaults and site.partitions",
        )
    return Finding(name, "failure", f"the job failed: {last}", "--no-job leaves this out")


def _findings(site: Site, outcome: _Outcome) -> Iterator[Finding]:
    answer = outcome.answer
    assert answer is not None
    node = answer["node"]
    yield Finding(
        "compute node",
        "ok",
        f"{node} reads and writes the shared folder (its answer was here after "
        f"{outcome.seen_after_s:.1f} s, queue included)",
    )
    where = f"{answer['host']}:{answer['port']}"
    if outcome.reached:
        yield Finding(
            "node's ports",
            "failure",
            f"this host cannot reach {where}: {outcome.reached}",
            "ask the site which ports are open between login and compute nodes (site.ports), or "
            "which interface to use (site.host_interface)",
        )
    else:
        yield Finding("node's ports", "ok", f"this host reaches {where}")
    if not site.wants_apptainer:
        return
    if answer["apptainer"] is None:
        yield Finding(
            "node's apptainer",
            "failure",
            f"not on PATH on {node}",
            "site.prelude: [module load apptainer], or runtime: native",
        )
        return
    lacking = [
        words
        for present, words in (
            (answer["user_namespaces"], "user namespaces are not allowed"),
            (answer["squashfuse"], "squashfuse is missing (images are unpacked at each start)"),
        )
        if not present
    ]
    yield Finding(
        "node's apptainer",
        "warning" if lacking else "ok",
        "; ".join([f"{answer['apptainer']} on {node}", *lacking]),
        "ask the site" if lacking else "",
    )
