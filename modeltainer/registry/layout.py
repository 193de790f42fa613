"""Where things lie below the registry's root. Paths only; see the package docstring."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from pathlib import Path

LAUNCH_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,100}-r\d{1,4}-[a-z0-9]{6}")


def new_launch_id(model: str, replica: int) -> str:
    """A fresh id: readable, unique, safe as a file name and in a Slurm job name."""
    slug = re.sub(r"[^a-z0-9._-]+", "-", model.lower()).strip("-._")[:60] or "model"
    tail = "".join(secrets.choice("abcdefghijkmnpqrstuvwxyz23456789") for _ in range(6))
    return f"{slug}-r{replica}-{tail}"


@dataclass(frozen=True)
class Layout:
    """The registry's paths for one root."""

    root: Path

    @property
    def launches(self) -> Path:
        return self.root / "launches"

    @property
    def endpoints(self) -> Path:
        return self.root / "endpoints"

    @property
    def gateway(self) -> Path:
        return self.root / "gateway"

    @property
    def usage(self) -> Path:
        return self.gateway / "usage"

    @property
    def keys(self) -> Path:
        return self.gateway / "keys"

    @property
    def starting(self) -> Path:
        """Marks of models that requests have had started of late."""
        return self.gateway / "starting"

    @property
    def files(self) -> Path:
        """What clients have uploaded, and what batches have written for them."""
        return self.gateway / "files"

    @property
    def batches(self) -> Path:
        return self.gateway / "batches"

    @property
    def open_batches(self) -> Path:
        return self.batches / "open"

    @property
    def ended_batches(self) -> Path:
        return self.batches / "ended"

    @property
    def deployments(self) -> Path:
        return self.root / "deployments"

    @property
    def reconcile(self) -> Path:
        return self.root / "reconcile"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    def run(self, job_id: str, launch_id: str) -> Path:
        """How long a job has held its GPUs."""
        self.launch(launch_id)  # same check
        return self.runs / f"{job_id}.{launch_id}.json"

    def launch(self, launch_id: str) -> Path:
        """Folder of one launch.

        Raises:
            ValueError: not a launch id, so it must not become a path.
        """
        if not LAUNCH_ID.fullmatch(launch_id):
            raise ValueError(f"{launch_id!r} is not a launch id")
        return self.launches / launch_id

    def spec(self, launch_id: str) -> Path:
        return self.launch(launch_id) / "spec.json"

    def submission(self, launch_id: str) -> Path:
        return self.launch(launch_id) / "submission.json"

    def secret(self, launch_id: str) -> Path:
        return self.launch(launch_id) / "secret.json"

    def drain(self, launch_id: str) -> Path:
        """The request to drain: its presence asks, its content says why."""
        return self.launch(launch_id) / "drain"

    def ranks(self, launch_id: str) -> Path:
        """Where the nodes of a launch over several tell each other of themselves."""
        return self.launch(launch_id) / "ranks"

    def rendezvous(self, launch_id: str) -> Path:
        return self.ranks(launch_id) / "rendezvous.json"

    def rank(self, launch_id: str, rank: int) -> Path:
        return self.ranks(launch_id) / f"{rank}.json"

    def log(self, launch_id: str) -> Path:
        return self.launch(launch_id) / "log"

    def endpoint(self, job_id: str, launch_id: str) -> Path:
        self.launch(launch_id)  # same check
        return self.endpoints / f"{job_id}.{launch_id}.json"

    def create(self) -> None:
        """Make the folders, owner-only.

        Raises:
            OSError: the root cannot be made or written.
        """
        folders = (self.launches, self.endpoints, self.gateway, self.keys)
        for folder in (self.root, *folders, self.deployments, self.reconcile):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
