"""Ctrl-C before ``mt-submit`` has even imported its modules."""

from __future__ import annotations

import subprocess
import sys

INTERRUPTED_AT_IMPORT = """
import sys

class Interrupted:
    def find_spec(self, name, path=None, target=None):
        if name == "click":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupted())
from modeltainer.cli.entry import main
sys.exit(main())
"""


def test_an_interrupted_import_ends_quietly() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_AT_IMPORT], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
