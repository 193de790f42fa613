#!/bin/sh
# How long would these messages be? Nothing is answered. Usage: count_tokens.sh MODEL
set -eu
curl -sS --fail-with-body "$OPENAI_BASE_URL/messages/count_tokens" \
    -H @/dev/fd/3 -H "Content-Type: application/json" \
    -d @- 3<<KEY <<EOF
x-api-key: $OPENAI_API_KEY
KEY
{
  "model": "${1:?usage: count_tokens.sh MODEL}",
  "messages": [{"role": "user", "content": "Name three rivers."}]
}
EOF
