"""Completion of model and launch names in the shell."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from modeltainer.config.schema import Config


def complete_model(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Names and aliases in models.yaml."""
    config = _config(ctx)
    return [] if config is None else _matching(_models(config), incomplete)


def complete_launch(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Models that are launched, and launches."""
    from modeltainer.registry import launches
    from modeltainer.registry.layout import Layout

    config = _config(ctx)
    if config is None:
        return []
    specs = [launch.spec for launch in launches.read_all(Layout(config.site.registry))]
    names = dict.fromkeys([spec.model for spec in specs] + [spec.launch_id for spec in specs], "")
    return _matching(names.items(), incomplete)


def _config(ctx: click.Context) -> Config | None:
    """While completing, nothing has run: the file's name is in the root's parameters only."""
    from modeltainer.config.load import load

    named = ctx.find_root().params.get("config_file")
    try:
        return load(Path(named) if named else None)
    except (ValueError, OSError):
        return None  # a broken configuration completes nothing and must not write on the prompt


def _models(config: Config) -> Iterable[tuple[str, str]]:
    for name, model in config.models.items():
        yield name, model.description
        for alias in model.aliases:
            yield alias, f"{name}: {model.description}" if model.description else name


def _matching(names: Iterable[tuple[str, str]], incomplete: str) -> list[CompletionItem]:
    return [
        CompletionItem(name, help=line or None)
        for name, line in names
        if name.startswith(incomplete)
    ]
