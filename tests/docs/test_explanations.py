"""The numbers that the explanations give are the code's."""

from __future__ import annotations

import pytest

from modeltainer import companion
from modeltainer.gateway.settings import ColdStartSettings
from modeltainer.jobs import agent, lifecycle
from modeltainer.reconcile import decide, run
from modeltainer.registry.endpoints import LEASE_PERIODS
from modeltainer.registry.records import MAX_RECORD_BYTES, Endpoint
from tests.docs.code_blocks import ROOT

PEACE_S = lifecycle.Limits(load_timeout_s=0, drain_s=0).peaceful_drain_s
SAID = {
    "registry": [
        f"in its endpoint file every {Endpoint.period_s:g} s",
        f"After {LEASE_PERIODS} periods ({LEASE_PERIODS * Endpoint.period_s:g} s)",
        f"at most {MAX_RECORD_BYTES // 1024} KiB",
        f"every {companion.LEASE_RENEW_S:g} s",
        f"stands still for {companion.LEASE_STALE_S:g} s",
        f"within {decide.UNSUBMITTED_GRACE_S:g} s",
    ],
    "handover": [
        f"and {agent.WALLTIME_MARGIN_S:g} s. From then on",
        f"{decide.DEFAULT_LOAD_S:g} s if it was never seen",
        f"at least {decide.MARGIN_MIN_S:g} s and at most {decide.MARGIN_MAX_S:g} s",
        f"at least {lifecycle.PROPAGATION_S:g} s; at most {PEACE_S:g} s",
        f"{lifecycle.KILL_WAIT_MARGIN_S:g} s less than KillWait",
        f"Each look (every {run.STEP_S:g} s)",
        f"`gateway.cold_start.wait` ({ColdStartSettings().wait:g} s)",
    ],
}


@pytest.mark.parametrize("page", SAID)
def test_the_numbers_are_the_codes(page: str) -> None:
    text = " ".join((ROOT / "docs" / "explanation" / f"{page}.md").read_text().split())
    assert decide.MARGIN_SHARE == 0.1  # "a tenth"
    assert [said for said in SAID[page] if said not in text] == []
