"""What the global options say, for the commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from modeltainer.config.schema import Config
    from modeltainer.registry.layout import Layout

CommandT = TypeVar("CommandT", bound="Callable[..., object]")


@dataclass
class Invocation:
    """One run of ``mt-submit``."""

    config_file: Path | None = None
    _config: Config | None = None

    def config(self) -> Config:
        """The configuration, read once.

        Raises:
            ConfigError: it is wrong or missing.
        """
        if self._config is None:
            from modeltainer.config.load import load

            self._config = load(self.config_file)
        return self._config

    def fresh_config(self) -> Config:
        """The configuration, read again: for commands that stay.

        Raises:
            ConfigError: it is wrong or missing.
        """
        from modeltainer.config.load import load

        return load(self.config_file)

    def config_path(self) -> Path:
        """The configuration's file, absolute.

        Raises:
            ConfigError: there is none.
        """
        from modeltainer.config.load import find

        return (self.config_file or find()).absolute()

    def layout(self) -> Layout:
        """The registry's paths.

        Raises:
            ConfigError: the configuration is wrong or missing.
        """
        from modeltainer.registry.layout import Layout

        return Layout(self.config().site.registry)


pass_invocation = click.make_pass_decorator(Invocation)
