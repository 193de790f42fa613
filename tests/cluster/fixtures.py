"""Pytest fixtures: a running cluster for each Slurm release, shared by the whole session."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from tests.cluster.cache import locked
from tests.cluster.cluster import Cluster, clusters_dir, remove, running
from tests.cluster.machine import missing

PREFIX = "pytest-"
REQUIRE = "MODELTAINER_REQUIRE_CLUSTER"
"""Set to 1 where a test that needs the cluster must not be skipped."""


@pytest.fixture(scope="session")
def cluster(at_work: None) -> Iterator[Cluster]:
    """Slurm 26.05 with Apptainer: login, c1, c2 and a laptop."""
    with _cluster("sid") as up:
        yield up


@pytest.fixture(scope="session")
def cluster_24_11(at_work: None) -> Iterator[Cluster]:
    """Slurm 24.11 with Apptainer."""
    with _cluster("trixie") as up:
        yield up


@pytest.fixture(scope="session")
def cluster_22_05(at_work: None) -> Iterator[Cluster]:
    """Slurm 22.05, without Apptainer: native llama.cpp only."""
    with _cluster("bookworm") as up:
        yield up


def must_not_skip() -> bool:
    """Whether a missing program is a failure here (see REQUIRE)."""
    return os.environ.get(REQUIRE) == "1"


def require_cluster() -> None:
    """Skip the test where the cluster (or a root file system of it) cannot run, or fail it if it
    must not be skipped."""
    lacking = missing()
    if lacking and must_not_skip():
        pytest.fail(f"{REQUIRE}=1, but {'; '.join(lacking)}")
    if lacking:
        pytest.skip("; ".join(lacking))


@pytest.fixture(scope="session")
def at_work() -> Iterator[None]:
    """This session has clusters."""
    require_cluster()
    with begin() as lock:
        yield
        Path(lock.name).unlink()


@contextmanager
def _cluster(flavour: str) -> Iterator[Cluster]:
    up = Cluster.up(flavour, name=f"{PREFIX}{os.getpid()}-{flavour}")
    try:
        yield up
    finally:
        up.down()


def begin() -> IO[str]:
    """Take down what killed sessions have left; returns the lock that guards this one's clusters.

    A lock ends with its process, whereas the PID in a name may be another's by now. Several
    sessions may begin at once.
    """
    clusters_dir().mkdir(parents=True, exist_ok=True)
    with locked(clusters_dir() / ".lock"):
        for name in running():
            session = "-".join(name.split("-")[:2])
            if name.startswith(PREFIX) and (free := _take(session)):
                with free:
                    remove(clusters_dir() / name)
                    Path(free.name).unlink()
        mine = _take(f"{PREFIX}{os.getpid()}")
        assert mine is not None
        return mine


def _take(session: str) -> IO[str] | None:
    """Lock the session's file; None if it is at work."""
    file = (clusters_dir() / f".{session}.lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file
