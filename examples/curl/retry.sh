#!/bin/sh
# Waits as long as the gateway's Retry-After says while a model starts (503) or a key has asked too
# often (429), and gives up after ten minutes. Usage: retry.sh MODEL
set -eu
curl -sS --fail-with-body --retry 100 --retry-max-time 600 --connect-timeout 10 --max-time 600 \
    "$OPENAI_BASE_URL/chat/completions" \
    -H @/dev/fd/3 -H "Content-Type: application/json" \
    -d @- 3<<KEY <<EOF
Authorization: Bearer $OPENAI_API_KEY
KEY
{
  "model": "${1:?usage: retry.sh MODEL}",
  "messages": [{"role": "user", "content": "Name three rivers."}],
  "max_tokens": 100
}
EOF
