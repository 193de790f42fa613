"""Wait for a model that is starting, and say what is wrong where waiting is no use.

The client asks again after 408, 409, 429 and 5xx, and after a lost connection, and waits as long as
the gateway's Retry-After says. An answer that broke off after its first token is not asked for
again: the program has a part of it already and has to decide.
"""

import argparse
import sys

import openai

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", required=True)
parser.add_argument("--tries", type=int, default=60)
args = parser.parse_args()

client = openai.OpenAI(  # reads OPENAI_BASE_URL and OPENAI_API_KEY
    max_retries=args.tries - 1,
    timeout=openai.Timeout(600, connect=10),  # an answer may take long, the gateway may not
)
try:
    answer = client.chat.completions.create(
        model=args.model,
        messages=[{"role": "user", "content": "Name three rivers."}],
        max_tokens=100,
    )
except openai.APIStatusError as error:  # the gateway's words say what to do
    sys.exit(f"{error.status_code}: {error.message} (request {error.request_id})")
except openai.APITimeoutError:
    sys.exit("no answer within the time limit")
except openai.APIConnectionError as error:
    sys.exit(f"{client.base_url} cannot be reached: {error.__cause__}")
print(answer.choices[0].message.content)
