"""The agent of every node but the first, where one replica runs on several.

It waits for the head's rendezvous, starts its rank of the engine, keeps its word in the launch
folder, and ends with the head; what ends before that is told there, and the head ends all.
"""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

from modeltainer.jobs.agent_log import AgentLog
from modeltainer.jobs.diagnose import diagnose
from modeltainer.jobs.engine_start import CannotStartEngineError, EngineStarter
from modeltainer.jobs.engines import engine_for
from modeltainer.jobs.engines.base import Rank
from modeltainer.jobs.ports import NoFreePortError, hold_internal_ports
from modeltainer.jobs.process import EngineProcess
from modeltainer.jobs.site_facts import JobFacts, NoSuchInterfaceError, own_address
from modeltainer.jobs.staging import CancelledError, Stage, stage_image, stage_weights
from modeltainer.jobs.wakeup import Wakeup
from modeltainer.registry import ranks
from modeltainer.registry.atomic import read_bounded
from modeltainer.registry.endpoints import LEASE_PERIODS
from modeltainer.registry.layout import Layout
from modeltainer.registry.records import (
    MAX_RECORD_BYTES,
    BadRecordError,
    Cause,
    Endpoint,
    LaunchSecret,
    RankRecord,
    Rendezvous,
    State,
    decode,
)
from modeltainer.spec import LaunchSpec

TICK_S = 0.5
LOOK_S = 1.0
"""How often the head's record is read."""
HEAD_APPEARS_S = 120.0
"""The agents of one job start within seconds of each other; a node's prelude may take longer."""
ENGINE_GRACE_S = 5.0


@dataclass
class _Head:
    """The head's word as this rank reads it, with the moment of its last step."""

    endpoint: Endpoint | None
    moved: float

    def look(self, layout: Layout, job_id: str, launch_id: str) -> None:
        try:
            data, _ = read_bounded(layout.endpoint(job_id, launch_id), MAX_RECORD_BYTES)
            found = decode(data, Endpoint)
        except (OSError, BadRecordError):
            return
        if self.endpoint is None or found.counter != self.endpoint.counter:
            self.moved = time.monotonic()
        self.endpoint = found

    def over(self, now: float) -> Cause | None:
        """Why there is nothing more to do for this rank; None while the head lives."""
        if self.endpoint is not None and self.endpoint.state is State.ENDED:
            return Cause("stopped", "the head has ended")
        patience_s = HEAD_APPEARS_S
        if self.endpoint is not None:
            patience_s = LEASE_PERIODS * self.endpoint.period_s
        if now - self.moved < patience_s:
            return None
        return Cause(
            "rank-lost",
            f"the head has not been heard of for {now - self.moved:.0f} s",
            "its node or its agent is gone; mt-submit up starts all ranks again",
        )


class Follower:
    """See the module's docstring. One instance, one :meth:`run`."""

    def __init__(
        self, spec: LaunchSpec, secret: LaunchSecret, folder: Path, facts: JobFacts, rank: int
    ) -> None:
        self._spec, self._facts, self._rank = spec, facts, rank
        self._layout = Layout(Path(spec.site.registry))
        self._logs = folder / "log"
        self._log = AgentLog(self._logs / f"agent-{rank}.log")
        self._say = self._log.say
        self._wakeup = Wakeup()
        self._starter = EngineStarter(
            spec, secret, facts, engine_for(spec.engine, spec.runtime), self._say
        )
        self._head = _Head(None, time.monotonic())
        self._record = RankRecord(rank, facts.node)
        self._over = threading.Event()

    def run(self) -> Cause:
        """Live with the head; returns how this rank ended."""
        self._wakeup.install(self._on_signal)
        self._layout.ranks(self._spec.launch_id).mkdir(mode=0o700, exist_ok=True)
        watching = threading.Thread(target=self._keep_word, name="rank", daemon=True)
        watching.start()
        try:
            cause = self._live()
        except CannotStartEngineError as error:
            cause = error.cause
        except (NoFreePortError, NoSuchInterfaceError) as error:
            cause = Cause("no-such-interface", str(error), "check site.host_interface")
        self._starter.close()
        self._say(f"ended: {cause.code}: {cause.message}")
        self._record = replace(self._record, cause=cause)
        self._over.set()
        watching.join(10.0)
        self._log.close(2.0)
        return cause

    def _on_signal(self, number: int) -> None:
        # The head decides when to end, and drains before; Slurm's last word is SIGKILL.
        self._say(f"signal {number}: this rank ends with its head")

    def _keep_word(self) -> None:
        """Runs in a thread of its own: the folder may hang."""
        spoken = float("-inf")
        while True:
            last = self._over.wait(LOOK_S)
            if last or time.monotonic() - spoken >= self._record.period_s:
                spoken = time.monotonic()
                self._record = replace(self._record, counter=self._record.counter + 1)
                with contextlib.suppress(OSError):
                    ranks.write_rank(self._layout, self._spec.launch_id, self._record)
            if last:
                return
            self._head.look(self._layout, self._facts.job_id, self._spec.launch_id)

    def _live(self) -> Cause:
        spec = self._spec
        with contextlib.ExitStack() as held:
            at = self._stage(held)
            try:
                self._read_from_node(at)  # while the head does so, too
                found = self._await_rendezvous()
                if isinstance(found, Cause):
                    return found
                image = found.image if at is None else stage_image(found.image, at, self._say)
            except CancelledError:
                return self._head.over(time.monotonic()) or Cause("stopped", "the head has ended")
            address = own_address(spec, self._facts)
            rank = Rank(self._rank, spec.resources.nodes, found.address, found.port, address)
            block = hold_internal_ports()
            held.callback(block.release)
            process, program = self._starter.start(
                self._logs / f"engine-{self._rank}.log",
                image=image,
                bind="127.0.0.1",
                port=block.base,  # not listened on: this rank serves nobody
                internal_port=block.base,
                rank=rank,
            )
            self._say(f"rank {self._rank} started, pid {process.pid}: {program}")
            try:
                return self._watch(process, program)
            finally:
                process.terminate(ENGINE_GRACE_S, self._wakeup.sleep)

    def _stage(self, held: contextlib.ExitStack) -> Stage | None:
        wished = self._spec.site.node_cache
        if wished is None:
            return None
        at = Stage(wished, self._say, lambda: self._head.over(time.monotonic()) is not None)
        held.callback(at.close)
        return at

    def _read_from_node(self, at: Stage | None) -> None:
        if at is not None:
            self._starter.read_from(stage_weights(self._spec, at, self._say))

    def _await_rendezvous(self) -> Rendezvous | Cause:
        """Where to meet, or why it never came to that."""
        while True:
            found = ranks.read_rendezvous(self._layout, self._spec.launch_id)
            if found is not None:
                return found
            over = self._head.over(time.monotonic())
            if over is not None:
                return over
            self._wakeup.sleep(TICK_S)

    def _watch(self, process: EngineProcess, program: str) -> Cause:
        while True:
            over = self._head.over(time.monotonic())
            if over is not None:
                return over
            exit_code = process.exit_code()
            if exit_code is not None:
                self._say(f"the engine exited: {exit_code}")
                return diagnose(exit_code, process.tail(), program)
            self._wakeup.sleep(TICK_S)
