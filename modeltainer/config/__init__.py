"""``config/models.yaml``: schema, reading with friendly errors, and resolving to a launch."""

from modeltainer.config.load import find, load
from modeltainer.config.problems import ConfigError, Problem
from modeltainer.config.schema import Config, ModelSection

__all__ = ["Config", "ConfigError", "ModelSection", "Problem", "find", "load"]
