"""A service's account; and what a test that fails leaves behind is ended."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest

from tests.acceptance.service import service_account
from tests.acceptance.site import Account
from tests.cluster.cluster import Cluster


@pytest.fixture
def alice(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Account]:
    """An account with a gateway, and nothing left afterwards."""
    found = service_account(cluster, request.node.name.replace("_", "-")[:40])
    yield found
    found.mt("stop --all --wait 90", check=False)
    found.mt("gateway stop", check=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """After each failure, end all jobs and processes of the users of the test's clusters: the next
    one's nodes are free."""
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
