#!/bin/sh
# Speech written down, or with a third word translated to English, of a model that hears (vLLM).
# Usage: audio.sh MODEL FILE [translations]
set -eu
curl -sS --fail-with-body "$OPENAI_BASE_URL/audio/${3:-transcriptions}" \
    -H @- \
    -F "model=${1:?usage: audio.sh MODEL FILE [translations]}" \
    -F "file=@${2:?usage: audio.sh MODEL FILE [translations]}" <<KEY
Authorization: Bearer $OPENAI_API_KEY
KEY
