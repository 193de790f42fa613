"""Ask an alias that stands for several models, and see which of them answered.

Works with a plain alias too, which always leads to the same model.
"""

import argparse
from collections import Counter

from openai import OpenAI

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", required=True, help="The alias.")
parser.add_argument("--requests", type=int, default=20)
args = parser.parse_args()

client = OpenAI()  # reads OPENAI_BASE_URL and OPENAI_API_KEY
answered: Counter[str] = Counter()
for _ in range(args.requests):
    response = client.chat.completions.with_raw_response.create(
        model=args.model,
        messages=[{"role": "user", "content": "Name three rivers."}],
        max_tokens=20,
    )
    answered[response.headers["x-modeltainer-model"]] += 1
    answer = response.parse()  # the usual object: answer.choices[0].message.content
for name, count in answered.most_common():
    print(f"{name}: {count} of {args.requests}")
