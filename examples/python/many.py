"""Thousands of prompts at once, but never more than the engines can take: a JSON line each.

    python many.py --model MODEL --concurrency 64 < prompts.txt > answers.jsonl

For work that must survive a crash or the night, use mt-submit batch run: it resumes.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Iterator

from openai import AsyncOpenAI, OpenAIError, Timeout

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", required=True)
parser.add_argument("--concurrency", type=int, default=32)
args = parser.parse_args()


async def worker(client: AsyncOpenAI, prompts: Iterator[tuple[int, str]]) -> None:
    for number, prompt in prompts:  # shared: each worker takes the next when it is free
        row = {"row": number, "prompt": prompt.strip()}
        try:
            answer = await client.chat.completions.create(
                model=args.model,
                messages=[{"role": "user", "content": row["prompt"]}],
                max_tokens=100,
            )
            row["answer"] = answer.choices[0].message.content
        except OpenAIError as error:  # one bad row must not end the others
            row["error"] = str(error)
        print(json.dumps(row), flush=True)


async def main() -> None:
    timeout = Timeout(600, connect=10)
    async with AsyncOpenAI(max_retries=10, timeout=timeout) as client:
        prompts = enumerate(sys.stdin)  # read as needed, so that any number fits in memory
        await asyncio.gather(*(worker(client, prompts) for _ in range(args.concurrency)))


asyncio.run(main())
