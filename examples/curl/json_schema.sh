#!/bin/sh
# An answer that a program can read: JSON by a schema. Usage: json_schema.sh MODEL
set -eu
curl -sS --fail-with-body "$OPENAI_BASE_URL/chat/completions" \
    -H @/dev/fd/3 -H "Content-Type: application/json" \
    -d @- 3<<KEY <<EOF
Authorization: Bearer $OPENAI_API_KEY
KEY
{
  "model": "${1:?usage: json_schema.sh MODEL}",
  "messages": [{"role": "user", "content": "Which city is the capital of France? Answer with city and country as JSON."}],
  "response_format": {
    "type": "json_schema",
    "json_schema": {
      "name": "place",
      "strict": true,
      "schema": {
        "type": "object",
        "properties": {
          "city": {"type": "string", "maxLength": 40},
          "country": {"type": "string", "maxLength": 40}
        },
        "required": ["city", "country"],
        "additionalProperties": false
      }
    }
  },
  "max_tokens": 100,
  "temperature": 0
}
EOF
