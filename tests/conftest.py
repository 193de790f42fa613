"""What every test may use."""

import signal

import pytest

pytest_plugins = ["tests.cluster.fixtures"]

# A shell without job control starts what runs in its background with SIGINT ignored, and so would
# be every program that a test starts: Ctrl-C could not be tested there.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that wait long come first, so that the last of several processes is not alone."""
    long = ("cluster", "vllm", "model")
    items.sort(key=lambda item: not any(item.get_closest_marker(mark) for mark in long))
