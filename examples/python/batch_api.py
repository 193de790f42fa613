"""OpenAI's Batch API: upload a file of requests, and fetch the answers when they are ready.

The gateway works on them in the background; this program may end in between, and a batch outlives
restarts of the gateway and of the model's jobs.
"""

import argparse
import io
import json
import time

from openai import OpenAI

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", required=True)
parser.add_argument("--rows", type=int, default=20)
args = parser.parse_args()

client = OpenAI()  # reads OPENAI_BASE_URL and OPENAI_API_KEY
lines = [
    {
        "custom_id": f"number-{number}",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {
            "model": args.model,
            "messages": [{"role": "user", "content": f"Spell the number {number}."}],
            "max_tokens": 20,
        },
    }
    for number in range(args.rows)
]
content = io.BytesIO("\n".join(map(json.dumps, lines)).encode())
source = client.files.create(file=("numbers.jsonl", content), purpose="batch")
batch = client.batches.create(
    input_file_id=source.id, endpoint="/v1/chat/completions", completion_window="24h"
)
while batch.status in ("validating", "in_progress", "finalizing"):
    time.sleep(1)
    batch = client.batches.retrieve(batch.id)

print(f"{batch.id}: {batch.status}, {batch.request_counts}")
if batch.output_file_id:
    for line in client.files.content(batch.output_file_id).text.splitlines():
        row = json.loads(line)
        answer = row["response"]["body"]["choices"][0]["message"]["content"]
        print(f"{row['custom_id']}: {answer.strip()}")
    client.files.delete(batch.output_file_id)  # files take space until they are deleted
if batch.error_file_id:
    print(client.files.content(batch.error_file_id).text)
    client.files.delete(batch.error_file_id)
client.files.delete(source.id)
