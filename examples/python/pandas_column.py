"""A new column of a table, made by a model from another: CSV in, CSV out.

python pandas_column.py --model MODEL reviews.csv text sentiment > judged.csv
"""

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
from openai import OpenAI

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", required=True)
parser.add_argument("--concurrency", type=int, default=16)
parser.add_argument("file")
parser.add_argument("column")
parser.add_argument("new_column")
args = parser.parse_args()

client = OpenAI(max_retries=10)  # reads OPENAI_BASE_URL and OPENAI_API_KEY


def judge(text: str) -> str:
    prompt = f"Is this review positive or negative? Answer with one word.\n\n{text}"
    answer = client.chat.completions.create(
        model=args.model,
        messages=[{"role": "user", "content": prompt}],
        max_tokens=4,
        temperature=0,
    )
    return answer.choices[0].message.content or ""


table = pd.read_csv(args.file)
distinct = table[args.column].dropna().unique()  # the same text is asked once
with ThreadPoolExecutor(args.concurrency) as pool:
    answers = dict(zip(distinct, pool.map(judge, distinct), strict=True))
table[args.new_column] = table[args.column].map(answers)
table.to_csv(sys.stdout, index=False)
