"""``python -m modeltainer.reconcile --config models.yaml``: reconcile until standard input ends.

The gateway runs it so: a process of its own, since submitting changes this process's environment
and streams for a moment, and ends with the gateway however that ends.
"""

from __future__ import annotations

import sys

from modeltainer.companion import config_option, say, told_to_end


def main(argv: list[str] | None = None) -> int:
    """Reconcile; exit code 2: bad configuration."""
    config = config_option("modeltainer.reconcile", __doc__, argv)

    from modeltainer.config.load import load
    from modeltainer.config.problems import ConfigError
    from modeltainer.reconcile.run import BusyError, reconcile
    from modeltainer.registry.layout import Layout

    over = told_to_end()
    try:
        layout = Layout(load(config).site.registry)
        reconcile(layout, lambda: load(config), over=over, say=say)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except BusyError:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
