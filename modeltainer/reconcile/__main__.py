"""``python -m modeltainer.reconcile --config models.yaml``: reconcile until standard input ends.

The gateway runs it so: a process of its own, since submitting changes this process's environment
and streams for a moment, and ends with the gateway however that ends.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    """Reconcile; exit code 2: bad configuration."""
    parser = argparse.ArgumentParser(prog="python -m modeltainer.reconcile", description=__doc__)
    parser.add_argument("--config", type=Path, help="models.yaml; found as mt-submit does if unset")
    options = parser.parse_args(argv)

    from modeltainer.config.load import load
    from modeltainer.config.problems import ConfigError
    from modeltainer.reconcile.run import BusyError, reconcile
    from modeltainer.registry.layout import Layout

    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: over.set())

    def until_closed() -> None:
        while os.read(0, 4096):
            pass
        over.set()

    threading.Thread(target=until_closed, name="stdin", daemon=True).start()
    try:
        layout = Layout(load(options.config).site.registry)
        reconcile(layout, lambda: load(options.config), over=over, say=say)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except BusyError:
        return 0
    return 0


def say(line: str) -> None:
    """One line with the time, flushed."""
    print(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
