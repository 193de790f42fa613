"""Declarations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from modeltainer.registry import deployments
from modeltainer.registry.deployments import Deployment
from modeltainer.registry.layout import Layout


def test_a_new_revision_only_for_other_jobs(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    first = deployments.declare(layout, Deployment("m", "", model_digest="a"))
    more = deployments.declare(layout, replace(first, minimum=2, maximum=2))
    edited = deployments.declare(layout, replace(more, model_digest="b"))
    longer = deployments.declare(layout, replace(edited, overrides={"walltime_s": 60}))
    assert first.revision == more.revision
    assert len({first.revision, edited.revision, longer.revision}) == 3
    assert deployments.read(layout, "m") == longer
