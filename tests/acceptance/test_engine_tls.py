"""``site.engine_tls`` on the cluster: a real llama-server behind its own certificate."""

from __future__ import annotations

import pytest

from tests.acceptance.site import account
from tests.cluster.cluster import Cluster

pytestmark = pytest.mark.cluster


def test_the_engine_speaks_tls_only(cluster: Cluster) -> None:
    alice = account(cluster, "alice", "engine-tls", engine_tls=True)
    alice.mt("up tiny --wait")
    [row] = alice.ls()
    assert row["url"].startswith("https://")
    try:
        alice.mt("gateway start")
        assert alice.mt("chat tiny 'one two' --max-tokens 4").stdout.strip()
        address = row["url"].removeprefix("https://")
        node = address.partition(":")[0]

        def bob(url: str, options: str = "") -> str:
            line = f"curl -s -o /dev/null -w '%{{http_code}}' {options} {url}/v1/models; echo :$?"
            return cluster.run(node, ["bash", "-c", line], user="bob", check=False).stdout

        assert bob(f"http://{address}").startswith("000:")  # no plain HTTP
        assert bob(f"https://{address}") == "000:60\n"  # no authority vouches for it
        assert bob(f"https://{address}", "-k") in {"200:0\n", "401:0\n"}  # an open list, or not
        [secret] = list((alice.registry / "launches").glob("*/secret.json"))
        assert secret.stat().st_mode & 0o777 == 0o600
    finally:
        alice.mt("stop --all", check=False)
        alice.mt("gateway stop", check=False)
    alice.assert_nothing_left()
