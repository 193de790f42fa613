"""Speech written down, or translated to English, of a model that hears (vLLM)."""

import argparse
from pathlib import Path

from openai import OpenAI

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", required=True)
parser.add_argument("--translate", action="store_true")
parser.add_argument("file", type=Path)
args = parser.parse_args()

audio = OpenAI().audio  # reads OPENAI_BASE_URL and OPENAI_API_KEY
hears = audio.translations if args.translate else audio.transcriptions
print(hears.create(model=args.model, file=args.file).text)
