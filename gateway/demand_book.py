"""What clients ask for, counted by model and published for the reconciler.

Written from a thread of its own: shared filesystems may hang, the loop must not.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from modeltainer.reconcile import demand
from modeltainer.reconcile.demand import Demand
from modeltainer.registry.layout import Layout


class DemandBook:
    """Counted on the event loop; :meth:`start` begins to publish."""

    def __init__(
        self,
        layout: Layout,
        name: str,
        *,
        warn: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``name``: of this writer, for its file."""
        self._layout, self._warn, self._clock = layout, warn, clock
        self._name = name
        self._since = clock()
        self._in_flight: dict[str, int] = {}
        self._last: dict[str, float] = {}
        self._counter = 0
        self._wake = threading.Event()
        self._over = False
        self._thread = threading.Thread(target=self._run, name="demand", daemon=True)

    def begin(self, model: str, *, waits: bool) -> None:
        """A request for this model; ``waits``: nothing serves it yet, so that it is urgent news."""
        self._in_flight[model] = self._in_flight.get(model, 0) + 1
        self._last[model] = self._clock()
        if waits:
            self._wake.set()

    def end(self, model: str) -> None:
        """It is over."""
        self._in_flight[model] -= 1
        self._last[model] = self._clock()

    def demand(self) -> Demand:
        """What is known now."""
        now = self._clock()
        return Demand(
            counter=self._counter,
            watched_s=round(now - self._since, 3),
            in_flight={model: count for model, count in self._in_flight.copy().items() if count},
            idle_s={model: round(now - at, 3) for model, at in self._last.copy().items()},
        )

    def start(self) -> None:
        """Publish from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Publish no more; what is being written is not waited for."""
        self._over = True
        self._wake.set()

    def _run(self) -> None:
        failing = False
        while not self._over:
            self._wake.clear()
            self._counter += 1
            try:
                demand.write(self._layout, self._name, self.demand())
                failing = False
            except OSError as error:
                if not failing:
                    self._warn(f"the demand cannot be published: {error}")
                failing = True
            if not self._over and self._wake.wait(demand.PERIOD_S):
                time.sleep(0.2)  # a burst of first requests is one piece of news
        demand.remove(self._layout, self._name)
