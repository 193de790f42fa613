"""How long ``mt-submit --help`` takes: ``python -m modeltainer.bench.cli_start``.

Wall time of whole processes, the interpreter's own start included, files in the page cache.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path


def measure(argv: list[str], runs: int) -> list[float]:
    """Wall times in seconds of ``runs`` runs, after two that warm the caches.

    Raises:
        subprocess.CalledProcessError: the command fails.
    """
    times = []
    for _ in range(runs + 2):
        began = time.perf_counter()
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - began)
    return times[2:]


def main() -> None:
    """Measure and print one line per command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    runs: int = parser.parse_args().runs
    script = str(Path(sys.executable).with_name("mt-submit"))
    for argv in ([sys.executable, "-c", "pass"], [script, "--help"], [script, "up", "--help"]):
        times = measure(argv, runs)
        words = " ".join([Path(argv[0]).name, *argv[1:]])
        middle, worst = statistics.median(times) * 1000, max(times) * 1000
        print(f"{words}: median {middle:.0f} ms, worst {worst:.0f} ms of {runs}")


if __name__ == "__main__":
    main()
