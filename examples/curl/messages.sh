#!/bin/sh
# Anthropic's Messages API, where the engine has it (vLLM, llama.cpp). Usage: messages.sh MODEL
set -eu
curl -sS --fail-with-body "$OPENAI_BASE_URL/messages" \
    -H @/dev/fd/3 -H "Content-Type: application/json" \
    -d @- 3<<KEY <<EOF
x-api-key: $OPENAI_API_KEY
KEY
{
  "model": "${1:?usage: messages.sh MODEL}",
  "messages": [{"role": "user", "content": "Name three rivers."}],
  "max_tokens": 100
}
EOF
