"""Write the generated pages of docs: ``python -m tools.reference [FOLDER]``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from modeltainer.sizing.cheatsheet import cheatsheet
from tools.reference import bench, commands, gateway_pages, models_yaml, python_api, registry_files

PAGES: Mapping[str, Callable[[], str]] = {
    "reference/bench.md": bench.page,
    "reference/cli.md": commands.page,
    "reference/files.md": registry_files.page,
    "reference/http-api.md": gateway_pages.api_page,
    "reference/metrics.md": gateway_pages.metrics_page,
    "reference/models-yaml.md": models_yaml.page,
    "reference/python.md": python_api.page,
    "sizing.md": cheatsheet,
}


def main() -> None:
    """Write the pages into FOLDER (default: docs)."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[2] / "docs"
    for name, page in PAGES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page())


if __name__ == "__main__":
    main()
