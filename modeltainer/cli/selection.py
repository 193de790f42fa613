"""Which launches a name on the command line stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modeltainer.cli.exit_codes import NO_MATCH
from modeltainer.cli.failures import Failure
from modeltainer.registry import launches

if TYPE_CHECKING:
    from modeltainer.cli.invocation import Invocation


def launches_named(invocation: Invocation, target: str) -> list[launches.Launch]:
    """Launches by model, alias, launch id or job id, oldest first.

    Raises:
        Failure: there is none; the nearest names are in the hint.
    """
    found = launches.read_all(invocation.layout())
    model = invocation.config().model_named(target) or target
    hits = [
        one
        for one in found
        if target == one.spec.launch_id
        or model == one.spec.model
        or (one.submission is not None and target == one.submission.job_id)
    ]
    if not hits:
        raise Failure(f"no launch is named {target!r}", near(target, found), NO_MATCH)
    return sorted(hits, key=lambda one: one.submission.submitted_unix if one.submission else 0.0)


def near(target: str, found: list[launches.Launch]) -> str:
    """A hint at what was perhaps meant."""
    import difflib

    names = {one.spec.model for one in found} | {one.spec.launch_id for one in found}
    close = difflib.get_close_matches(target, sorted(names), n=1)
    return f"did you mean {close[0]!r}?" if close else "mt-submit ls --all shows what there is"
