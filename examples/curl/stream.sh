#!/bin/sh
# The answer as server-sent events, as it is made; usage in the last but one. Usage: stream.sh MODEL
set -eu
curl -sS --fail-with-body --no-buffer "$OPENAI_BASE_URL/chat/completions" \
    -H @/dev/fd/3 -H "Content-Type: application/json" \
    -d @- 3<<KEY <<EOF
Authorization: Bearer $OPENAI_API_KEY
KEY
{
  "model": "${1:?usage: stream.sh MODEL}",
  "messages": [{"role": "user", "content": "Name three rivers."}],
  "max_tokens": 100,
  "stream": true,
  "stream_options": {"include_usage": true}
}
EOF
