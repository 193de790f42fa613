"""A test that fails leaves jobs behind: they are ended, so that the next one's nodes are free."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.cluster.cluster import Cluster


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """After each failure, end all jobs and processes of the users of the test's clusters."""
    report = yield
    if report.failed:
        for found in item.funcargs.values():
            up = getattr(found, "cluster", found)
            if isinstance(up, Cluster):
                _clear(up)
    return report


def _clear(cluster: Cluster) -> None:
    for user in ("alice", "bob"):
        # The processes first: a reconciler among them would submit anew.
        for host in ("login", *cluster.nodes):
            cluster.run(host, ["pkill", "-KILL", "-u", user], user="root", check=False)
        cluster.run("login", ["scancel", "--user", user], user="root", check=False)
