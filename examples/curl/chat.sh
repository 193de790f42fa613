#!/bin/sh
# One question, one answer. Usage: chat.sh MODEL
set -eu
curl -sS --fail-with-body "$OPENAI_BASE_URL/chat/completions" \
    -H "Authorization: Bearer $OPENAI_API_KEY" -H "Content-Type: application/json" \
    -d @- <<EOF
{
  "model": "${1:?usage: chat.sh MODEL}",
  "messages": [{"role": "user", "content": "Name three rivers."}],
  "max_tokens": 100
}
EOF
