"""The agent's word in the registry, kept fresh by a thread of its own.

A shared filesystem may hang for a while; then only this thread hangs, and signals and the engine's
death are still seen. The thread is the only writer of the endpoint file, and reads from the
registry what others ask of the launch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from modeltainer.registry.endpoints import EndpointWriter


class Registration:
    """Publishes changes at once, and renews the lease each period between them."""

    def __init__(
        self,
        writer: EndpointWriter,
        report: Callable[[str], None],
        look: Callable[[], None] = lambda: None,
        forgotten: Callable[[], bool] = lambda: False,
    ) -> None:
        """
        Args:
            report: called with a line for the log when the registry cannot be written.
            look: called in the thread at each renewal, to read what others ask of this launch.
            forgotten: whether the launch is gone from the registry; then nobody will ever clear
                away the last word, and it is taken back.
        """
        self._forgotten = forgotten
        self._writer = writer
        self._report, self._look = report, look
        self._changes: dict[str, Any] = {}
        self._condition = threading.Condition()
        self._closing = False
        self._pending = True
        self._thread = threading.Thread(target=self._run, name="registration", daemon=True)

    def start(self) -> None:
        """Publish the first record and go on renewing.

        Raises:
            OSError: the registry cannot be written at all; nobody would ever see this launch.
        """
        self._writer.write()
        self._pending = False
        self._thread.start()

    def publish(self, **changes: Any) -> None:
        """Have these fields written as soon as the filesystem lets us; does not wait."""
        with self._condition:
            self._changes.update(changes)
            self._pending = True
            self._condition.notify()

    def poke(self) -> None:
        """Renew, and look for what others ask, now."""
        with self._condition:
            self._pending = True
            self._condition.notify()

    def close(self, timeout_s: float, **changes: Any) -> None:
        """Write the last word and stop renewing; waits for it at most ``timeout_s`` seconds."""
        with self._condition:
            self._changes.update(changes)
            self._pending = self._closing = True
            self._condition.notify()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        period = self._writer.endpoint.period_s
        while True:
            with self._condition:
                if not self._pending:
                    self._condition.wait(period)
                changes, self._changes = self._changes, {}
                self._pending, last = False, self._closing
            try:
                self._writer.write(**changes)
            except OSError as error:
                self._report(f"the registry cannot be written now: {error}")
                with self._condition:
                    self._changes = {**changes, **self._changes}
                    if last:
                        return
                    self._condition.wait(min(1.0, period))
                    self._pending = True
                continue
            if last:
                if self._forgotten():
                    self._writer.remove()
                return
            self._look()
