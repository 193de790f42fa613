"""``mt-submit bench`` for those who look for a script: ``python tools/bench.py MODEL …``."""

import sys

from modeltainer.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["bench", *sys.argv[1:]]))
