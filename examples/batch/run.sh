#!/bin/sh
# Every row of questions.jsonl, exactly one answer each; run it again to go on after a crash.
# Usage: run.sh MODEL [OUTPUT]
set -eu
model=${1:?usage: run.sh MODEL [OUTPUT]}
mt-submit batch run "$(dirname "$0")/questions.jsonl" --model "$model" \
    --output "${2:-answers.jsonl}" --url "$OPENAI_BASE_URL" --key "$OPENAI_API_KEY"
