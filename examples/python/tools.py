"""The model asks for a function, the program calls it, the model answers with what it gave.

vLLM needs engine_args {enable-auto-tool-choice: true, tool-call-parser: hermes} (the parser of the
model's family); llama.cpp takes it from the model's chat template.
"""

import argparse
import json

from openai import OpenAI

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", required=True)
model = parser.parse_args().model


def get_weather(city: str) -> str:
    return f"{city}: 12 degrees, rain"


tools = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather in a city now",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
]
client = OpenAI()  # reads OPENAI_BASE_URL and OPENAI_API_KEY
messages = [{"role": "user", "content": "How warm is it in Paris?"}]
for _ in range(3):  # a model may want several calls; not without end
    answer = client.chat.completions.create(
        model=model,
        messages=messages,
        tools=tools,
        parallel_tool_calls=False,  # one after the other: small models repeat themselves
        max_tokens=100,
        temperature=0,
    )
    message = answer.choices[0].message
    if not message.tool_calls:
        break
    messages.append(message)
    for call in message.tool_calls:
        arguments = json.loads(call.function.arguments)
        print(f"{call.function.name}({arguments})")
        messages.append(
            {"role": "tool", "tool_call_id": call.id, "content": get_weather(**arguments)}
        )
print(message.content)
