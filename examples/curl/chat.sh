#!/bin/sh
# One question, one answer. Usage: chat.sh MODEL
set -eu
curl -sS --fail-with-body "$OPENAI_BASE_URL/chat/completions" \
    -H @/dev/fd/3 -H "Content-Type: application/json" \
    -d @- 3<<KEY <<EOF
Authorization: Bearer $OPENAI_API_KEY
KEY
{
  "model": "${1:?usage: chat.sh MODEL}",
  "messages": [{"role": "user", "content": "Name three rivers."}],
  "max_tokens": 100
}
EOF
