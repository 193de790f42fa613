"""The version, in one place: read by packaging, the CLI and the gateway."""

__version__ = "0.1.0"
