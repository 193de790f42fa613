"""The configuration as the gateway holds it: reloaded on request, and never lost to a bad file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modeltainer.config.schema import Config

LoadConfig = Callable[[], "Config"]


class Catalog:
    """The last configuration that could be read, and what is wrong with the newest."""

    def __init__(self, load: LoadConfig | None) -> None:
        """``load`` reads models.yaml; None serves whatever the registry has.

        Raises:
            ConfigError: the first reading fails; there is nothing to fall back on.
        """
        self._load = load
        self.config: Config | None = load() if load is not None else None
        self.problem = ""

    def reload(self) -> bool:
        """Read again (in the calling thread); False and :attr:`problem` when the old one stays."""
        if self._load is None:
            return True
        try:
            self.config = self._load()
        except Exception as error:  # whatever it is must not end who watches the file
            self.problem = str(error)
            return False
        self.problem = ""
        return True

    @property
    def models(self) -> Mapping[str, tuple[str, ...]]:
        """Names and aliases."""
        if self.config is None:
            return {}
        return {name: model.aliases for name, model in self.config.models.items()}

    @property
    def splits(self) -> Mapping[str, Mapping[str, int]]:
        """Names that are split, to models and weights."""
        return {} if self.config is None else self.config.splits
