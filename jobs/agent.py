"""The agent: one process per replica on the compute node.

It takes a port, starts the engine in its runtime, waits until it truly answers, registers it, keeps
its lease, sees it die, drains it before the walltime or at a stop, and says in words how it ended.
Decisions are :mod:`modeltainer.jobs.lifecycle`'s; here is what carries them out.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from modeltainer import core_files
from modeltainer.hpc.options import early_signal_s
from modeltainer.jobs import ports
from modeltainer.jobs.agent_log import AgentLog
from modeltainer.jobs.diagnose import diagnose
from modeltainer.jobs.engine_start import CannotStartEngineError, EngineStarter
from modeltainer.jobs.engines import Engine, engine_for
from modeltainer.jobs.engines.base import Rank
from modeltainer.jobs.follower import Follower
from modeltainer.jobs.lifecycle import Act, Ask, Facts, Life, Limits, step
from modeltainer.jobs.probe import NotYetError, Target, check_answers, check_identity
from modeltainer.jobs.process import EngineProcess
from modeltainer.jobs.registration import Registration
from modeltainer.jobs.site_facts import (
    JobFacts,
    NoSuchInterfaceError,
    addresses,
    job_facts,
    own_address,
    rank_of,
)
from modeltainer.jobs.wakeup import Wakeup
from modeltainer.registry import launches, ranks, runs
from modeltainer.registry.endpoints import EndpointWriter
from modeltainer.registry.layout import Layout
from modeltainer.registry.records import (
    Cause,
    Clocks,
    Endpoint,
    LaunchSecret,
    Rendezvous,
    RunRecord,
    State,
)
from modeltainer.spec import LaunchSpec

T = TypeVar("T")

PORT_TRIES = 5
TICK_S = 0.5
"""Longest sleep of the main loop; signals and the engine's death end it at once."""
ENGINE_GRACE_S = 5.0
DRAIN_SHARE = 4
"""The drain before the walltime takes at most one part in this many of it."""
RANKS_SAY_S = 5.0
"""What another node's agent takes at most to see its engine's end and to say so."""
SIGNAL_EARLY_S = 60.0
"""By how much Slurm's early signal may come before its time."""
WALLTIME_MARGIN_S = 15.0
"""Kept free before the walltime's end, beside the drain time."""


class LaunchFailedError(RuntimeError):
    """The replica ended, and not because it was asked to; Slurm shows the job as failed."""


def run(launch_folder: str) -> None:
    """Run one replica, or this node's part of it, from its launch folder until it ends.

    The payload of submitit's job.

    Raises:
        LaunchFailedError: it failed; the cause is in the registry too.
    """
    core_files.forbid()
    folder = Path(launch_folder)
    spec = launches.read_spec(folder)
    secret = launches.read_secret(folder)
    rank = rank_of(spec.resources.nodes)
    if rank:
        facts = job_facts(spec, os.environ, time.time())
        cause = Follower(spec, secret, folder, facts, rank).run()
    else:
        cause = Agent(spec, secret, folder).run()
    if cause.failed:
        raise LaunchFailedError(f"{cause.code}: {cause.message}")


class Agent:
    """See the module's docstring. One instance, one :meth:`run`."""

    def __init__(self, spec: LaunchSpec, secret: LaunchSecret, folder: Path) -> None:
        self._spec, self._secret = spec, secret
        self._folder, self._log_folder = folder, folder / "log"
        self._facts: JobFacts = job_facts(spec, os.environ, time.time())
        self._began = time.monotonic()
        left_s = self._facts.left_s
        self._ends = None if left_s is None else self._began + left_s
        """On this process's own clock: wall clocks of nodes differ."""
        self._engine: Engine = engine_for(spec.engine, spec.runtime)
        self._limits = Limits(load_timeout_s=spec.load_timeout_s, drain_s=spec.drain_s)
        self._log = AgentLog(self._log_folder / "agent.log")
        self._say = self._log.say
        self._started_unix = self._now_unix()
        self._urged = False
        """Slurm or somebody else has sent SIGURG."""
        self._ask: Ask | None = None
        self._drain_reason: str | None = None
        self._wakeup = Wakeup()
        self._layout = Layout(Path(spec.site.registry))
        self._registration = Registration(
            EndpointWriter(self._layout, self._first_record()),
            self._say,
            self._look_for_requests,
            self._is_forgotten,
        )
        self._clocks = Clocks()
        self._starter = EngineStarter(spec, secret, self._facts, self._engine, self._say)
        self._run_written = 0.0
        self._shared_image: str | None = None
        self._heard: dict[int, ranks.Heard] = {}

    def _first_record(self) -> Endpoint:
        spec, facts = self._spec, self._facts
        return Endpoint(
            launch_id=spec.launch_id,
            model=spec.model,
            replica=spec.replica,
            job_id=facts.job_id,
            owner=_user_name(),
            engine=spec.engine,
            runtime=spec.runtime,
            state=State.STARTING,
            node=facts.node,
            aliases=spec.aliases,
            served_name=spec.model,
            context=spec.context,
            tls=self._secret.certificate is not None,
            devices=facts.devices,
            gres=spec.gres,
            nodes=spec.resources.nodes,
            started_unix=self._started_unix,
            ends_unix=facts.ends_unix,
            agent_pid=os.getpid(),
        )

    def _is_forgotten(self) -> bool:
        """Whether the launch's folder is gone, which is known only if the registry answers."""
        try:
            self._folder.lstat()
        except FileNotFoundError:
            return self._layout.launches.is_dir()
        except OSError:
            return False
        return False

    def run(self) -> Cause:
        """Live the whole life; returns how it ended."""
        self._wakeup.install(self._on_signal)
        self._registration.start()
        try:
            cause = self._live()
        except _EndedError as ended:
            cause = ended.cause
        except Exception as error:
            now = self._now_unix()
            self._registration.close(
                5.0, state=State.ENDED, cause=_unexpected(error), ended_unix=now
            )
            self._log.close(2.0)
            raise
        self._starter.close()
        self._say(f"ended: {cause.code}: {cause.message}")
        now = self._now_unix()
        self._registration.close(
            10.0, state=State.ENDED, cause=cause, host=None, port=None, ended_unix=now
        )
        self._write_run(now, ended=True)
        self._log.close(2.0)
        return cause

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGTERM:
            self._ask = Ask.STOP
            return
        # SIGURG is Slurm's early word of the walltime, or whoever asked for something in the launch
        # folder; SIGUSR2 is submitit's early word on a bare machine.
        self._urged = number == signal.SIGURG
        self._registration.poke()
        if number == signal.SIGUSR2 and self._ask is None and self._ends is None:
            # With a known end the agent plans the drain itself.
            self._ask = Ask.WALLTIME

    def _look_for_requests(self) -> None:
        """Runs in the registration's thread: the folder may hang."""
        self._look_for_ranks()
        now = self._now_unix()
        if now - self._run_written >= runs.RENEW_S:
            self._write_run(now, ended=False)
        urged, self._urged = self._urged, False
        if self._drain_reason is None:
            self._drain_reason = launches.drain_reason(self._folder)
            if self._drain_reason is not None:
                self._wakeup.wake()
            elif urged and self._ends is not None:
                self._ends = corrected_end(self._ends, time.monotonic(), early_signal_s(self._spec))

    def _now_unix(self) -> float:
        """By the controller's clock, as far as that is known here."""
        return self._facts.now_unix + time.monotonic() - self._began

    def _write_run(self, now_unix: float, *, ended: bool) -> None:
        spec = self._spec
        if not spec.resources.gpus:
            return
        record = RunRecord(
            job_id=self._facts.job_id,
            launch_id=spec.launch_id,
            model=spec.model,
            owner=_user_name(),
            gpus=spec.gpu_count,
            started_unix=self._started_unix,
            seen_unix=now_unix,
            gres=spec.gres,
            ended=ended,
        )
        with contextlib.suppress(OSError):
            runs.write(self._layout, record)
        self._run_written = now_unix

    @property
    def _asked(self) -> Ask | None:
        """What was asked of this replica, if anything."""
        if self._ask is not None or self._drain_reason is None:
            return self._ask
        return Ask.RELEASE if self._drain_reason == launches.STOPPED else Ask.DRAIN

    def _live(self) -> Cause:
        with contextlib.ExitStack() as held:
            self._shared_image = self._image()
            image = self._stage(self._shared_image, held)
            cause = Cause("engine-died", "the engine was never started")
            for attempt in range(PORT_TRIES):
                cause = self._serve(image, keep_port=attempt == 0)
                if cause.code != "port-in-use" or self._spec.resources.nodes > 1:
                    break
                self._say("the port was taken; trying another")
            return cause

    def _image(self) -> str | None:
        """Path of the SIF, pulled where it is not in the cache yet."""
        spec = self._spec
        if spec.runtime != "apptainer" or spec.image is None:
            return None
        from modeltainer.apptainer.image import ImageError, cached, pull

        cache = Path(spec.site.cache)
        found = cached(spec.image, cache)
        if found is not None:
            return str(found)
        started = time.monotonic()
        outcome = self._fetch(
            lambda: pull(spec.image or "", cache, cancelled=lambda: self._asked is not None)
        )
        self._clocks = replace(self._clocks, pulling_s=time.monotonic() - started)
        if self._asked is not None:
            raise _EndedError(self._asked_ending(self._asked))
        if isinstance(outcome, ImageError):
            raise _EndedError(Cause(outcome.code, outcome.message, outcome.hint))
        if isinstance(outcome, BaseException):
            raise outcome
        return str(outcome)

    def _stage(self, image: str | None, held: contextlib.ExitStack) -> str | None:
        """The image's path, once image and weights are on the node where the site wishes it."""
        wished = self._spec.site.node_cache
        if wished is None:
            return image
        from modeltainer.jobs.staging import CancelledError, Stage, stage_image, stage_weights

        started = time.monotonic()
        at = Stage(wished, self._say, lambda: self._asked is not None)
        held.callback(at.close)
        outcome = self._fetch(
            lambda: (
                stage_image(image, at, self._say),
                stage_weights(self._spec, at, self._say),
            )
        )
        self._clocks = replace(self._clocks, staging_s=time.monotonic() - started)
        if isinstance(outcome, CancelledError) or self._asked is not None:
            raise _EndedError(self._asked_ending(self._asked or Ask.STOP))
        if isinstance(outcome, BaseException):
            raise outcome
        path, source = outcome
        self._starter.read_from(source)
        return path

    def _fetch(self, work: Callable[[], T]) -> T | BaseException:
        """Do work in a thread, so that what is asked of this agent is heard; what it raised is
        returned."""
        self._registration.publish(state=State.PULLING)
        result: list[T | BaseException] = []

        def fetch() -> None:
            try:
                result.append(work())
            except BaseException as error:
                result.append(error)
            self._wakeup.wake()

        threading.Thread(target=fetch, name="fetch", daemon=True).start()
        while not result:
            self._ask = self._ask or self._planned_end()
            self._wakeup.sleep(TICK_S)
        return result[0]

    def _serve(self, image: str | None, *, keep_port: bool) -> Cause:
        """One run of the engine, from its start to its end."""
        spec = self._spec
        with contextlib.ExitStack() as held:
            try:
                bind, host = addresses(spec, self._facts)
                port = ports.hold_port(bind, spec.site.ports)
                held.callback(port.release)
                rank = self._meet(bind, held) if spec.resources.nodes > 1 else None
                internal = None
                if self._engine.needs_internal_ports:
                    block = ports.hold_internal_ports()
                    held.callback(block.release)
                    internal = block.base
            except ports.NoFreePortError as error:
                return Cause("no-free-port", str(error), "widen site.ports, or use another node")
            except NoSuchInterfaceError as error:
                return Cause("no-such-interface", str(error), "check site.host_interface")
            if not keep_port:
                port.share()
            started = time.monotonic()
            try:
                process, program = self._starter.start(
                    self._log_folder / "engine.log",
                    image=image,
                    bind=bind,
                    port=port.port,
                    internal_port=internal,
                    rank=rank,
                )
            except CannotStartEngineError as error:
                return error.cause
            self._say(f"engine started, pid {process.pid}, port {port.port}: {program}")
            self._registration.publish(state=State.LOADING)
            target = Target(
                "127.0.0.1" if bind == "0.0.0.0" else bind,  # noqa: S104
                port.port,
                self._secret.key,
                spec.model,
                self._secret.nonce,
                self._secret.certificate,
            )
            try:
                return self._watch(process, target, host, started, program)
            finally:
                process.terminate(ENGINE_GRACE_S, self._wakeup.sleep)

    def _meet(self, bind: str, held: contextlib.ExitStack) -> Rank:
        """This node's part as the head; the others are told where it is."""
        spec = self._spec
        address = own_address(spec, self._facts)
        port = ports.hold_port(bind, spec.site.ports)
        held.callback(port.release)
        port.share()
        meeting = Rendezvous(address, port.port, self._shared_image)
        ranks.write_rendezvous(self._layout, spec.launch_id, meeting)
        return Rank(0, spec.resources.nodes, address, port.port, address)

    def _look_for_ranks(self) -> None:
        """Hear the other nodes. Not in the main loop while it serves: the folder may hang."""
        nodes = self._spec.resources.nodes
        if nodes > 1:
            records = ranks.read_ranks(self._layout, self._spec.launch_id, nodes)
            self._heard = ranks.listen(self._heard, records, time.monotonic())
            if ranks.lost(self._heard, time.monotonic()) is not None:
                self._wakeup.wake()

    def _with_ranks(self, cause: Cause) -> Cause:
        """What ended first may have been another node's rank, which takes the head's with it."""
        if self._spec.resources.nodes == 1 or cause.code != "engine-died":
            return cause
        found, deadline = None, time.monotonic() + RANKS_SAY_S
        while found is None and time.monotonic() < deadline:
            self._wakeup.sleep(TICK_S)
            self._look_for_ranks()
            found = ranks.lost(self._heard, time.monotonic())
        if found is None:
            return cause
        if found.code != "engine-died":
            return found
        return replace(cause, message=f"{cause.message}; {found.message}")

    def _watch(
        self, process: EngineProcess, target: Target, host: str, started: float, program: str
    ) -> Cause:
        life = Life(State.LOADING, time.monotonic())
        readiness = _Readiness(target, self._wakeup.wake, self._say)
        readiness.start()
        idle = _Idleness(self._engine, target)
        try:
            while True:
                exit_code = process.exit_code()
                now = time.monotonic()
                facts = Facts(
                    now=now,
                    engine_exited=exit_code is not None,
                    answered=readiness.answered.is_set(),
                    ask=self._ask or self._planned_end() or self._asked,
                    idle=life.state is State.DRAINING and idle.look(now),
                )
                life, act = step(life, facts, self._limits)
                lost = ranks.lost(self._heard, now)
                if lost is not None and exit_code is None and life.ask is None:
                    self._say(f"{lost.code}: {lost.message}")
                    return lost
                if act is Act.PUBLISH_READY:
                    self._publish_ready(process, target, host, now - started)
                elif act is Act.BEGIN_DRAIN:
                    self._say(f"draining: {life.ask.value if life.ask else ''}")
                    self._registration.publish(state=State.DRAINING)
                elif act is Act.TERMINATE:
                    process.terminate(ENGINE_GRACE_S, self._wakeup.sleep)
                    return self._ending(life, process)
                elif act is Act.FINISH:
                    if life.ask is not None:
                        return self._asked_ending(life.ask)
                    self._say(f"the engine exited: {exit_code}")
                    cause = self._with_ranks(diagnose(exit_code or 0, process.tail(), program))
                    if cause.code == "port-in-use" and readiness.answered.is_set():
                        # It had its port; what the log says of others must not start it again.
                        return replace(cause, code="engine-died")
                    return cause
                self._wakeup.sleep(0.1 if life.state is State.DRAINING else TICK_S)
        finally:
            readiness.stop()

    def _ending(self, life: Life, process: EngineProcess) -> Cause:
        if not life.timed_out:
            return self._asked_ending(life.ask or Ask.STOP)
        return Cause(
            "load-timeout",
            f"the engine did not answer within {self._spec.load_timeout_s} s",
            "raise load_timeout in models.yaml, or see mt-submit logs for what it waits for",
            diagnose(0, process.tail()).log,
        )

    def _asked_ending(self, ask: Ask) -> Cause:
        if ask is Ask.DRAIN:
            return Cause("drained", f"it was asked to drain: {self._drain_reason}")
        if ask is Ask.WALLTIME and self._clocks.loading_s is None:
            return Cause(
                "walltime-too-short",
                "the job's walltime was over before the engine had answered, "
                f"{time.monotonic() - self._began:.0f} s after the agent's start",
                "ask for more with --time or resources.walltime; mt-submit ls --json says what the "
                "start was busy with",
            )
        if ask is Ask.WALLTIME:
            return Cause("walltime", "the job's walltime was over", "mt-submit up starts it again")
        return Cause("stopped", "it was asked to stop")

    def _planned_end(self) -> Ask | None:
        if self._ends is None:
            return None
        # A drain longer than the job itself would begin before the first request.
        share_s = max(0.0, self._facts.left_s or 0.0) / DRAIN_SHARE
        early_s = min(self._spec.drain_s + WALLTIME_MARGIN_S, share_s)
        return Ask.WALLTIME if time.monotonic() >= self._ends - early_s else None

    def _publish_ready(
        self, process: EngineProcess, target: Target, host: str, loading_s: float
    ) -> None:
        split = self._engine.start_split(process.tail())
        self._clocks = replace(self._clocks, loading_s=loading_s, **split)
        self._say(f"ready after {loading_s:.1f} s")
        self._registration.publish(
            state=State.READY,
            host=host,
            port=target.port,
            ready_unix=self._now_unix(),
            clocks=self._clocks,
            engine_version=self._engine.version(target),
        )


def corrected_end(ends: float, now: float, early_s: float) -> float:
    """When the job ends, after a SIGURG that nobody has sent for a request: Slurm's early word of
    the walltime, which may come up to a minute early (sbatch(1), ``--signal``).

    What is expected stands unless the signal contradicts it, as after a slow prolog on a node whose
    clock is wrong.
    """
    return now + early_s if now + early_s + SIGNAL_EARLY_S < ends else ends


class _EndedError(Exception):
    def __init__(self, cause: Cause) -> None:
        super().__init__(cause.message)
        self.cause = cause


def _unexpected(error: Exception) -> Cause:
    return Cause(
        "agent-error",
        f"the agent itself failed: {type(error).__name__}: {error}",
        "see mt-submit logs --agent, and please report it",
    )


def _user_name() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


@dataclass
class _Readiness:
    """Asks the engine in a thread until it is ours and has answered one token."""

    target: Target
    wake: Callable[[], None]
    say: Callable[[str], None]

    def __post_init__(self) -> None:
        self.answered = threading.Event()
        self._stopped = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._ask, name="readiness", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def _ask(self) -> None:
        last, pause = "", 0.1
        while not self._stopped.wait(pause):
            try:
                check_identity(self.target)
                check_answers(self.target)
            except NotYetError as error:
                if str(error) != last:
                    last = str(error)
                    self.say(f"not ready: {last}")
                pause = min(pause * 1.3, 2.0)
                continue
            self.answered.set()
            self.wake()
            return


class _Idleness:
    """Whether requests still run in the engine, asked at most four times a second."""

    def __init__(self, engine: Engine, target: Target) -> None:
        self._engine, self._target = engine, target
        self._asked_at = float("-inf")
        self._idle = False

    def look(self, now: float) -> bool:
        if now - self._asked_at >= 0.25:
            self._asked_at = now
            self._idle = self._engine.requests_running(self._target) == 0
        return self._idle
