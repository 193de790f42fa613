"""What clients ask for and how long they wait, by model, published for the reconciler.

Written from a thread of its own: shared filesystems may hang, the loop must not.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping

from modeltainer.reconcile import demand
from modeltainer.reconcile.demand import Demand
from modeltainer.registry.layout import Layout

RECENT_S = 30.0
"""First tokens count for so long."""
MAX_RECENT = 1000


class DemandBook:
    """Counted on the event loop; :meth:`start` begins to publish."""

    def __init__(
        self,
        layout: Layout,
        name: str,
        *,
        launches: Callable[[], Mapping[str, int]],
        warn: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            name: of this writer, for its file.
            launches: requests under way by launch; called from another thread.
        """
        self._layout, self._warn, self._clock = layout, warn, clock
        self._launches = launches
        self._name = name
        self._since = clock()
        self._in_flight: dict[str, int] = {}
        self._last: dict[str, float] = {}
        self._streams: dict[object, tuple[str, float]] = {}
        """Those without a first token: the model, and since when."""
        self._first_tokens: dict[str, deque[tuple[float, float]]] = {}
        """By model: when, and after how long."""
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

    def asked(self, stream: object, model: str) -> None:
        """This stream's request goes to an engine now."""
        self._streams[stream] = model, self._clock()

    def answered(self, stream: object) -> None:
        """Its first token has come."""
        asked = self._streams.pop(stream, None)
        if asked is None:
            return
        model, since = asked
        now = self._clock()
        recent = self._first_tokens.setdefault(model, deque(maxlen=MAX_RECENT))
        recent.append((now, now - since))

    def given_up(self, stream: object) -> None:
        """It is over; nothing if it was answered."""
        self._streams.pop(stream, None)

    def demand(self) -> Demand:
        """What is known now."""
        now = self._clock()
        return Demand(
            counter=self._counter,
            watched_s=round(now - self._since, 3),
            in_flight={model: count for model, count in self._in_flight.copy().items() if count},
            idle_s={model: round(now - at, 3) for model, at in self._last.copy().items()},
            first_token_s=self._waits(now),
            launches={name: count for name, count in self._launches().items() if count},
        )

    def _waits(self, now: float) -> dict[str, float]:
        """How long streams wait: those that were answered of late, or those that were not yet."""
        waiting: dict[str, list[float]] = {}
        for model, since in self._streams.copy().values():
            waiting.setdefault(model, []).append(now - since)
        answered = {
            model: [wait for at, wait in recent.copy() if now - at <= RECENT_S]
            for model, recent in self._first_tokens.copy().items()
        }
        return {
            model: round(max(_high(waiting.get(model, ())), _high(answered.get(model, ()))), 3)
            for model in sorted({*waiting, *(model for model, waits in answered.items() if waits)})
        }

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


def _high(waits: Iterable[float]) -> float:
    """Their 90th percentile; 0 of none."""
    ordered = sorted(waits)
    return ordered[len(ordered) * 9 // 10] if ordered else 0.0
