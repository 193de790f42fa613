"""Exit codes of ``mt-submit``, for scripts. They do not change between versions."""

from __future__ import annotations

OK = 0
"""It did what was asked."""
FAILURE = 1
"""Something failed that has no code of its own below."""
USAGE = 2
"""The command line is wrong (click's own code)."""
CONFIG = 3
"""models.yaml is wrong or missing, or what it names (weights, secrets) is not there."""
CANNOT_PLACE = 4
"""This cluster has no place for what was asked."""
REFUSED = 5
"""The scheduler refused the job, or does not answer."""
LAUNCH_FAILED = 6
"""A launch ended before it was ready."""
TIMEOUT = 7
"""Time was up; what was started or stopped goes on."""
GATEWAY_UNREACHABLE = 8
"""No gateway runs, or it does not answer from here."""
NO_MATCH = 9
"""No model, launch, job or key has that name."""
INTERRUPTED = 130
"""Ctrl-C (128 + SIGINT, as shells have it)."""
