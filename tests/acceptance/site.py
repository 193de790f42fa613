"""A user at the virtual cluster's login node, and what is left there of their launches."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from modeltainer.gateway import address
from modeltainer.registry.layout import Layout
from tests.cluster.cluster import Cluster

OF_JOBS = ("llama-server", "modeltainer.jobs", "submitit.core._submit", "vllm")
"""What the command lines of engines and their agents hold."""
RECONCILER = "modeltainer.reconcile"


SKEW = """\
import os, time
skew, real = float(os.environ["SKEW"]), time.time
time.time = lambda: real() + skew
open(f"{os.path.dirname(__file__)}/{os.environ['SLURM_JOB_ID']}", "w").write(str(skew))
"""
"""Read by each Python of a job at its start: stands for a node whose clock is wrong. Slurm's own
clocks are right: munge refuses credentials older than 5 minutes. (libfaketime would not do:
with it, Python's time.sleep fails.)"""


@dataclass
class Account:
    """One user's configuration and commands on the login node."""

    cluster: Cluster
    user: str
    home: str
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def registry(self) -> Path:
        """The registry, as the test's own machine sees it."""
        return self.here(self.config["site"]["registry"])

    def log(self, name: str = "gateway") -> Path:
        """The log of the gateway on login, or of a process beside it."""
        return address.of_host(Layout(self.registry), name, "log", "login")

    def here(self, path: str) -> Path:
        """A path below /shared, as the test's own machine sees it."""
        return self.cluster.shared / Path(path).relative_to("/shared")

    def write_config(self, **changes: Any) -> None:
        """(Re)write ``models.yaml`` in the working folder; sections given replace the old ones."""
        self.config.update(changes)
        file = self.here(self.home) / "models.yaml"
        file.write_text(yaml.safe_dump(self.config, sort_keys=False))
        file.chmod(0o644)

    def differ_clocks(self) -> None:
        """From now on, wall clocks of agents differ by up to 20 minutes from each other."""
        folder = self.here(self.home) / "skew"
        folder.mkdir()
        folder.chmod(0o777)
        (folder / "sitecustomize.py").write_text(SKEW)
        self.config["site"]["prelude"] = [
            f"export PYTHONPATH={self.home}/skew SKEW=$(( (SLURM_JOB_ID % 3 - 1) * 600 ))"
        ]
        self.write_config()

    def clocks(self) -> set[float]:
        """By how many seconds agents' clocks were wrong."""
        files = (self.here(self.home) / "skew").glob("[0-9]*")
        return {float(file.read_text()) for file in files}

    def sh(
        self, command: str, *, check: bool = True, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell line on login, in the working folder."""
        return self.cluster.run(
            "login",
            ["bash", "-lc", f"cd {self.home} && {command}"],
            user=self.user,
            check=check,
            timeout=timeout,
        )

    def mt(
        self, line: str, *, check: bool = True, timeout: float = 180
    ) -> subprocess.CompletedProcess[str]:
        """Run ``mt-submit LINE``."""
        return self.sh(f"mt-submit {line}", check=check, timeout=timeout)

    def until_answered(self, model: str) -> str:
        """Ask through the gateway until it has seen the model, which it looks for once a second;
        returns the answer."""
        deadline = time.monotonic() + 90
        while True:
            said = self.mt(f"chat {model} hello --no-stream --max-tokens 4", check=False)
            if said.returncode == 0:
                return said.stdout.strip()
            assert time.monotonic() < deadline, said.stderr
            time.sleep(0.5)

    def ls(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads(self.mt("ls --json").stdout)
        return rows

    def jobs(self) -> list[str]:
        """Ids of this user's jobs that Slurm still has."""
        return self.sh("squeue --me --noheader --format=%A").stdout.split()

    def processes(self) -> list[str]:
        """Command lines of this user's processes on all hosts."""
        found = []
        for host in ["login", *self.cluster.nodes]:
            listed = self.cluster.run(
                host, ["ps", "-u", self.user, "-o", "etime=,ppid=,args="], user="root", check=False
            ).stdout
            found += [f"{host}: {line}" for line in listed.splitlines()]
        return found

    def of_jobs(self) -> list[str]:
        """Those of this user's processes that belong to jobs: agents and engines."""
        return [
            line
            for line in self.processes()
            if any(part in line for part in OF_JOBS) and " gateway start " not in line
        ]

    def endpoint_files(self) -> list[str]:
        return sorted(path.name for path in (self.registry / "endpoints").glob("*"))

    def launch_folders(self) -> list[str]:
        return sorted(path.name for path in (self.registry / "launches").glob("*"))

    def assert_nothing_left(self, within_s: float = 5) -> None:
        """No job, process or file of what was launched; a gateway, with its reconciler, may run.
        ``within_s``: how long processes may take to end (a node that comes back ends its own)."""
        assert self.jobs() == []
        deadline = time.monotonic() + within_s
        while of_jobs := self.of_jobs():
            assert time.monotonic() < deadline, of_jobs
            time.sleep(1)
        lines = self.processes()
        gateways = sum(" gateway start " in line for line in lines)
        assert len([line for line in lines if RECONCILER in line]) <= gateways, lines
        assert self.endpoint_files() == [], self.registry_text()
        assert self.launch_folders() == [], self.registry_text()

    def registry_text(self) -> str:
        """What the registry holds now."""
        found = sorted(path for path in self.registry.rglob("*") if path.is_file())
        return "\n".join(
            f"--- {path}:\n{path.read_text(errors='replace')[-3000:]}" for path in found
        )


def account(cluster: Cluster, user: str, folder: str, **site: Any) -> Account:
    """A working folder of ``user`` with a configuration of two models, tiny and gemma."""
    home = f"/shared/home/{user}/{folder}"
    cluster.run("login", ["mkdir", "-p", home], user=user)
    found = Account(cluster, user, home)
    if cluster.flavour == "bookworm":  # its Apptainer is missing: the engine is on the node
        runtime: dict[str, Any] = {"runtime": "native"}
        extra: dict[str, Any] = {"command": ["/opt/llama/bin/llama-server"]}
    else:
        runtime = {"images": {"llamacpp": "/shared/images/llama.cpp-cpu.sif"}}
        extra = {}
    small = {"cpus": 1, "memory": "1G", "walltime": "20"}
    found.write_config(
        site={"registry": f"{home}/registry", "cache": f"{home}/cache", **runtime, **site},
        models={
            "tiny": {
                "engine": "llamacpp",
                "source": "/shared/models/tiny.gguf",
                "aliases": ["small"],
                "context": 256,
                "resources": small,
                **extra,
            },
            "gemma": {
                "engine": "llamacpp",
                "source": "/shared/models/gemma-3-270m.gguf",
                "context": 1024,
                "resources": {**small, "cpus": 2, "memory": "2G"},
                **extra,
            },
        },
    )
    return found
