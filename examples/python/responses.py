"""OpenAI's Responses API, where the engine has it (vLLM, llama.cpp)."""

import argparse

from openai import OpenAI

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", required=True)
model = parser.parse_args().model

client = OpenAI()  # reads OPENAI_BASE_URL and OPENAI_API_KEY
answer = client.responses.create(model=model, input="Name three rivers.", max_output_tokens=100)
print(answer.output_text)
