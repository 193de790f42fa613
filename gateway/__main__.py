"""``python -m modeltainer.gateway --config models.yaml``: the gateway in the foreground."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    """Run the gateway; exit code 2: bad configuration, 3: it cannot listen or write."""
    parser = argparse.ArgumentParser(prog="python -m modeltainer.gateway", description=__doc__)
    parser.add_argument("--config", type=Path, help="models.yaml; found as mt-submit does if unset")
    parser.add_argument("--log", type=Path, help="append the JSON lines to this file")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as :func:`.serve.serve`; the imports come first

    from modeltainer.config.load import load
    from modeltainer.config.problems import ConfigError
    from modeltainer.gateway.listening import CannotStartError
    from modeltainer.gateway.serve import serve
    from modeltainer.registry.layout import Layout

    try:
        config = load(options.config)
        serve(config.gateway, Layout(config.site.registry), options.config, log_file=options.log)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except (CannotStartError, OSError) as error:
        print(f"gateway: {error}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
