"""The command ``mt-submit``: Ctrl-C ends it quietly even while its modules are being imported."""

from __future__ import annotations

from modeltainer.cli.exit_codes import INTERRUPTED


def main() -> int:
    """Run ``mt-submit``; returns its exit code."""
    try:
        from modeltainer.cli.main import main as run

        return run()
    except KeyboardInterrupt:
        return INTERRUPTED
