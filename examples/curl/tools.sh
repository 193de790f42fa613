#!/bin/sh
# The model asks for a function to be called. Usage: tools.sh MODEL
set -eu
curl -sS --fail-with-body "$OPENAI_BASE_URL/chat/completions" \
    -H @/dev/fd/3 -H "Content-Type: application/json" \
    -d @- 3<<KEY <<EOF
Authorization: Bearer $OPENAI_API_KEY
KEY
{
  "model": "${1:?usage: tools.sh MODEL}",
  "messages": [{"role": "user", "content": "How warm is it in Paris?"}],
  "tools": [{
    "type": "function",
    "function": {
      "name": "get_weather",
      "description": "The weather in a city now",
      "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"]
      }
    }
  }],
  "parallel_tool_calls": false,
  "max_tokens": 100,
  "temperature": 0
}
EOF
