"""How long a successor would wait in the queue, asked of Slurm rarely."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from modeltainer.reconcile.replica import Phase, Replica
from modeltainer.spec import LaunchSpec

AHEAD_S = 6 * 3600.0
"""Asked about replicas whose useful time ends within this."""
AGAIN_S = 900.0
"""A model is asked about at most this often."""
BETWEEN_S = 30.0
"""And Slurm is asked at most this often, whatever the number of models."""


class QueueEstimates:
    """Seconds by model, as Slurm last said."""

    def __init__(
        self,
        ask: Callable[[LaunchSpec], float | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """``ask`` gives the start of a job like this one in Unix seconds (by default Slurm's)."""
        self._ask, self._clock, self._wall_clock = ask or _ask_slurm, clock, wall_clock
        self._asked: dict[str, float] = {}
        self._found: dict[str, float] = {}
        self._last = float("-inf")

    def look(
        self, replicas: Sequence[Replica], specs: Mapping[str, LaunchSpec]
    ) -> Mapping[str, float]:
        """What is known; of the models whose end is near, one may be asked about now."""
        now = self._clock()
        if now - self._last < BETWEEN_S:
            return self._found
        near = [
            one
            for one in replicas
            if one.phase is Phase.READY
            and one.useful_s is not None
            and one.useful_s <= AHEAD_S
            and now - self._asked.get(one.model, float("-inf")) >= AGAIN_S
        ]
        if near:
            first = min(near, key=lambda one: one.useful_s or 0.0)
            self._last = self._asked[first.model] = now
            start = self._ask(specs[first.launch_id])
            if start is not None:
                self._found[first.model] = max(0.0, start - self._wall_clock())
        return self._found


def _ask_slurm(spec: LaunchSpec) -> float | None:
    from modeltainer.hpc.cluster import detect
    from modeltainer.hpc.estimate import start_of_another

    return start_of_another(spec) if detect() == "slurm" else None
