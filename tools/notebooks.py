"""Execute notebooks against a gateway and write each as a Markdown page with its outputs.

Usage: ``python tools/notebooks.py [--output docs/notebooks] [NAME …]``, with OPENAI_BASE_URL,
OPENAI_API_KEY and MODEL (for ``comparison`` also AGAINST) in the environment, and the extra
``notebooks`` installed. The notebooks themselves stay without outputs.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbconvert import MarkdownExporter
from PIL import Image
from traitlets.config import Config

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
COLOURS = 32
WIDTH = 1200


def execute(name: str) -> nbformat.NotebookNode:
    """Run all cells; the kernel's folder is the notebooks' own.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised.
    """
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    # mt-submit is that of the same environment as the kernel.
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    resources = {"metadata": {"path": str(NOTEBOOKS)}}
    NotebookClient(
        notebook, kernel_name="python3", timeout=900, resources=resources, coalesce_streams=True
    ).execute()
    return notebook


def write(notebook: nbformat.NotebookNode, name: str, output: Path) -> Path:
    """The page and, in a folder beside it, its pictures."""
    priority = ["image/png", "text/markdown", "text/html", "text/plain"]
    exporter = MarkdownExporter(config=Config(NbConvertBase={"display_data_priority": priority}))
    resources = {"output_files_dir": name, "unique_key": name}
    body, made = exporter.from_notebook_node(notebook, resources)
    output.mkdir(parents=True, exist_ok=True)
    for file, content in made["outputs"].items():
        (output / file).parent.mkdir(exist_ok=True)
        (output / file).write_bytes(_small(content))
    page = output / f"{name}.md"
    page.write_text(_plain(body) + "\n")
    return page


def _plain(body: str) -> str:
    """Tables have the site's style rather than pandas', and no blank lines are doubled."""
    body = re.sub(
        r"<style.*?</style>\n|(?<=<table) border=\"1\"| style=\"[^\"]*\"", "", body, flags=re.S
    )
    parts = body.split("```")  # every other one is code
    parts[::2] = [re.sub(r"\n[ \n]*\n(?=\S|$)", "\n\n", part) for part in parts[::2]]
    return "```".join(parts).strip()


def _small(png: bytes) -> bytes:
    """Lines and greys need few colours, and a page few pixels."""
    with Image.open(io.BytesIO(png)) as image:
        width = min(WIDTH, image.width)
        smaller = image.convert("RGB").resize((width, image.height * width // image.width))
    buffer = io.BytesIO()
    smaller.quantize(COLOURS).save(buffer, "png", optimize=True)
    return buffer.getvalue()


def main() -> None:
    """Execute and write those named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "notebooks")
    parser.add_argument("names", nargs="*", metavar="NAME")
    args = parser.parse_args()
    for name in args.names or sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")):
        print(write(execute(name), name, args.output))


if __name__ == "__main__":
    main()
