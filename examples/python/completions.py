"""Text that goes on, without a chat template: for base models."""

import argparse

from openai import OpenAI

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", required=True)
model = parser.parse_args().model

client = OpenAI()  # reads OPENAI_BASE_URL and OPENAI_API_KEY
prompt = "The longest river of Africa is"
answer = client.completions.create(model=model, prompt=prompt, max_tokens=20, temperature=0)
print(prompt + answer.choices[0].text)
