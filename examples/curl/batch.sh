#!/bin/sh
# Uploads a file of requests, has them answered in the background, prints the answers.
# Usage: batch.sh MODEL < prompts, a line each. Needs jq.
set -eu
model=${1:?usage: batch.sh MODEL < PROMPTS}
ask() {
    path=$1
    shift
    curl -sS --fail-with-body "$OPENAI_BASE_URL/$path" -H @/dev/fd/3 "$@" 3<<KEY
Authorization: Bearer $OPENAI_API_KEY
KEY
}

source=$(jq -cR --arg model "$model" '{custom_id: "line-\(input_line_number)", method: "POST",
    url: "/v1/completions", body: {model: $model, prompt: ., max_tokens: 20}}' |
    ask files -F purpose=batch -F "file=@-;filename=prompts.jsonl" | jq -r .id)
batch=$(ask batches -H "Content-Type: application/json" -d @- <<EOF | jq -r .id
{"input_file_id": "$source", "endpoint": "/v1/completions", "completion_window": "24h"}
EOF
)
while :; do
    state=$(ask "batches/$batch")
    case $(echo "$state" | jq -r .status) in
        validating | in_progress | finalizing) sleep 1 ;;
        *) break ;;
    esac
done
echo "$state" | jq -c '{status, request_counts, errors}' >&2
for file in $(echo "$state" | jq -r '.output_file_id, .error_file_id | values'); do
    ask "files/$file/content"
    ask "files/$file" -X DELETE >/dev/null
done
ask "files/$source" -X DELETE >/dev/null
