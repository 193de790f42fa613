"""One job serves in another's place: before its walltime, and around a maintenance."""

from __future__ import annotations

import json
import os
import signal
import time
from datetime import datetime

import pytest

from tests.acceptance.service import load, outcome, ready, serves, until
from tests.acceptance.site import Account

pytestmark = pytest.mark.cluster


def streamed(alice: Account) -> list[tuple[float, float]]:
    """When each stream that is over began and ended, by the gateway's log (seconds since 1970)."""
    found = []
    for line in alice.log().read_text().splitlines():
        said = json.loads(line)
        if said["event"] == "request" and said["stream"]:
            ended = datetime.fromisoformat(said["time"].replace("Z", "+00:00")).timestamp()
            found.append((ended - said["duration_s"], ended))
    return found


def test_planned_handovers_fail_and_cut_no_stream(alice: Account) -> None:
    """Streams of 20 s among them, and the clocks of the replicas' nodes differ by 20 minutes."""
    gemma = alice.config["models"]["gemma"]
    gemma["resources"]["walltime"] = "2"  # minutes: a handover every third of one
    gemma |= {"drain": "50s", "context": 32768, "engine_args": {"parallel": 4}}
    alice.differ_clocks()
    alice.mt("gateway start")
    alice.mt("up gemma --keep --wait")
    running = load(alice, "gemma", seconds=900, long_s=20)
    log = alice.log("reconcile")
    handovers: list[float] = []

    def crossed(spans: list[tuple[float, float]]) -> int:
        """Handovers during which a stream went on."""
        return sum(any(a < one - 2 and one + 2 < b for a, b in spans) for one in handovers)

    def enough() -> bool:
        count = log.read_text().count("another replica serves in its place")
        handovers.extend([time.time()] * (count - len(handovers)))
        spans = streamed(alice)
        return crossed(spans) >= 3 and sum(b - a >= 20 for a, b in spans) >= 5

    until(enough, "three handovers, with streams of 20 s", within=400)
    os.kill(alice.cluster.command_pid(running), signal.SIGTERM)
    found = outcome(running)
    assert found["bad"] == []
    assert found["requests"] >= 10
    # The client saw them at least as long as the gateway did.
    spans = [(one["began_unix"], one["began_unix"] + one["seconds"]) for one in found["streams"]]
    assert crossed(spans) >= 3
    assert sum(end - began >= 20 for began, end in spans) >= 5
    [kept] = json.loads(alice.mt("ls --deployments --json").stdout)
    assert kept["failures"] == 0
    assert kept["load_s"] > 0
    assert 0 < kept["start"]["loading_s"] <= kept["load_s"]
    assert alice.clocks() == {-600.0, 0.0, 600.0}
    stopped = alice.mt("stop gemma")
    assert "kept up no more" in stopped.stdout
    alice.assert_nothing_left()


def test_a_maintenance_shortens_the_job_before_it_and_its_successor_waits(
    alice: Account,
) -> None:
    cluster = alice.cluster

    def admin(line: str) -> None:
        cluster.run("login", ["scontrol", *line.split()], user="root")

    alice.config["models"]["tiny"]["drain"] = "10s"
    alice.write_config()
    alice.mt("gateway start")
    what = "reservationname=works flags=maint,ignore_jobs nodes=ALL user=root duration=60"
    admin(f"create reservation {what} starttime=now+270")
    begins = time.time() + 270
    try:
        alice.mt("up gemma --keep --time 1:00:00")  # has to wait for its end
        # Started within 90 s it has 3 or 4 minutes; at half of them no other can have 3.
        alice.mt("up tiny --keep --time 1:00:00 --time-min 3 --wait")
        [early] = ready(alice)
        assert 60 < early["time_left_s"] <= begins - time.time() + 1

        def waiting() -> list[str]:
            return [row["reason"] for row in alice.ls() if row["state"] == "queued"]

        until(lambda: any("maintenance" in reason for reason in waiting()), "gemma's reason")
        assert serves(alice, early)
        until(lambda: len(waiting()) == 2, "the successor, in the queue", 200)
        [still] = ready(alice)
        assert still["launch_id"] == early["launch_id"]
        assert still["time_left_s"] < early["time_left_s"] * 2 / 3  # late, for the queue is long
        until(lambda: ready(alice) == [], "nothing can serve in the maintenance", 140)
        time.sleep(6)
        assert len(waiting()) == 2  # and no further ones are submitted
    finally:
        admin("delete reservationname=works")
    until(lambda: len(ready(alice)) == 1 == len(ready(alice, "gemma")), "both are up again", 90)
    alice.mt("stop --all")
    alice.assert_nothing_left()
