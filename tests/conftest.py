"""What every test may use."""

import signal

pytest_plugins = ["tests.cluster.fixtures"]

# A shell without job control starts what runs in its background with SIGINT ignored, and so would
# be every program that a test starts: Ctrl-C could not be tested there.
signal.signal(signal.SIGINT, signal.default_int_handler)
