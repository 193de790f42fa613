"""Real llama-server: what becomes of its streams when one of the two ends goes away."""

from __future__ import annotations

import json

import pytest

from tests.acceptance.raw_streams import RawClient
from tests.acceptance.site import Account

pytestmark = pytest.mark.cluster


def test_streams_that_end_early(alice: Account) -> None:
    alice.config["models"]["gemma"]["context"] = 4096
    alice.write_config()
    alice.mt("up gemma --wait")
    alice.mt("gateway start")
    key = alice.mt("key create raw").stdout.strip()
    url = json.loads(alice.mt("gateway status --json").stdout)["url"]
    assert alice.until_answered("gemma")
    RawClient(alice, "gemma", "login", url, key).check(tokens=4000, engine="llama-server")
