"""Writes the project's engines into the registry that the gateway follows.

On a cluster each engine has its agent; in a compose project Docker starts and watches the engines,
so one small process is enough: it probes each engine as the agent would (key, name, nonce, one
token) and keeps its endpoint file and lease. An engine whose profile is not started stays out.

Run as ``python -m modeltainer.compose.registrar --engines FILE --registry DIR --keys DIR``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from modeltainer.compose.engine_watch import Watch, after_probe
from modeltainer.compose.engines_file import EngineEntry, read_engines
from modeltainer.jobs.engines import engine_for
from modeltainer.jobs.probe import NotYetError, Target, check_answers, check_identity
from modeltainer.registry import launches
from modeltainer.registry.endpoints import EndpointReader, EndpointWriter
from modeltainer.registry.layout import Layout
from modeltainer.registry.records import Endpoint, LaunchSecret, State, Submission

JOB = "compose"
"""Stands where a Slurm job's id stands on a cluster."""
PROBE_S = 2.0
"""Between two looks at an engine; also the lease's period."""


class Registration:
    """One engine: its launch folder, its endpoint file and the thread that watches it."""

    def __init__(self, entry: EngineEntry, key: str, layout: Layout, stop: threading.Event) -> None:
        self._entry, self._stop = entry, stop
        spec, identity = entry.spec, entry.identity
        self._target = Target(entry.service, entry.port, key, spec.model, identity.nonce)
        launches.create(layout, spec, LaunchSecret(key, identity.nonce))
        now = time.time()
        launches.record_submission(
            layout,
            Submission(spec.launch_id, spec.model, spec.replica, "compose", JOB, now),
        )
        self._writer = EndpointWriter(
            layout,
            Endpoint(
                launch_id=spec.launch_id,
                model=spec.model,
                replica=spec.replica,
                job_id=JOB,
                owner=str(os.getuid()),
                engine=spec.engine,
                runtime="compose",
                state=State.STARTING,
                node=entry.service,
                aliases=spec.aliases,
                host=entry.service,
                port=entry.port,
                served_name=spec.model,
                context=spec.context,
                period_s=PROBE_S,
                started_unix=now,
                agent_pid=os.getpid(),
            ),
        )
        self.thread = threading.Thread(target=self._run, name=entry.service, daemon=True)

    def _run(self) -> None:
        watch = Watch()
        while not self._stop.is_set():
            before, watch = watch, self._look(watch)
            changes = {"state": watch.state}
            if watch.state is not before.state:
                print(f"{self._entry.service}: {watch.state.value}", flush=True)
            with contextlib.suppress(OSError):
                # A full disk now: the lease runs out if it stays so.
                self._writer.write(**changes, **self._first_ready(before, watch))
            self._stop.wait(PROBE_S)
        self._writer.remove()

    def _look(self, watch: Watch) -> Watch:
        try:
            check_identity(self._target)
        except NotYetError:
            return after_probe(watch, reachable=False, answers=False)
        if watch.state is State.READY:
            return after_probe(watch, reachable=True, answers=True)
        try:
            check_answers(self._target)
        except NotYetError:
            return after_probe(watch, reachable=True, answers=False)
        return after_probe(watch, reachable=True, answers=True)

    def _first_ready(self, before: Watch, now: Watch) -> dict[str, object]:
        if now.state is not State.READY or before.state is State.READY:
            return {}
        spec = self._entry.spec
        version = engine_for(spec.engine, spec.runtime).version(self._target)
        return {"ready_unix": time.time(), "engine_version": version}


def forget_leftovers(layout: Layout) -> None:
    """Remove what an earlier registrar of this project left; there is one at a time."""
    for seen in EndpointReader(layout).poll():
        if seen.endpoint.job_id == JOB:
            layout.endpoint(JOB, seen.endpoint.launch_id).unlink(missing_ok=True)
    for launch in launches.read_all(layout):
        if launch.spec.runtime == "compose":
            launches.remove(layout, launch.spec.launch_id)


def run(entries: Sequence[EngineEntry], layout: Layout, keys: Path, stop: threading.Event) -> None:
    """Register the engines until ``stop`` is set; then take them out.

    Raises:
        OSError: a key cannot be read, or the registry cannot be written.
    """
    layout.create()
    forget_leftovers(layout)
    registrations = [
        Registration(entry, (keys / entry.key_secret).read_text().strip(), layout, stop)
        for entry in entries
    ]
    for one in registrations:
        one.thread.start()
    stop.wait()
    for one in registrations:
        one.thread.join(5.0)
    forget_leftovers(layout)


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGTERM; exit code 2 when a file cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m modeltainer.compose.registrar")
    parser.add_argument("--engines", type=Path, required=True, help="engines.json of the project")
    parser.add_argument("--registry", type=Path, required=True, help="the registry's root")
    parser.add_argument("--keys", type=Path, required=True, help="folder of the engines' key files")
    options = parser.parse_args(argv)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        run(read_engines(options.engines), Layout(options.registry), options.keys, stop)
    except (OSError, ValueError) as error:
        print(f"registrar: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
