"""A model folder of a published shape without its weights: vLLM's ``--load-format dummy`` fills
the GPU with random ones of the right size, so nothing needs to be fetched."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.weights.published import CONFIGS

_TOKENIZER = """
import sys
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

folder, size = sys.argv[1], int(sys.argv[2])
vocabulary = {"<s>": 0, "</s>": 1}
for letter in sorted(pre_tokenizers.ByteLevel.alphabet()):
    vocabulary[letter] = len(vocabulary)
while len(vocabulary) < size:  # every token that a random model can choose is some text
    vocabulary[f"w{len(vocabulary)}"] = len(vocabulary)
tokenizer = Tokenizer(models.BPE(vocabulary, []))
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
fast.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\\n{% endfor %}"
fast.save_pretrained(folder)
"""


_ARCHITECTURES = {
    "qwen2": "Qwen2ForCausalLM",
    "llama": "LlamaForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}


def write_random_model(shape: str, folder: Path, *, python: str) -> None:
    """Write config.json and a tokenizer with as many tokens as the shape has.

    Args:
        shape: name of a file in ``tests/weights/configs``.
        python: an interpreter that has transformers.
    """
    folder.mkdir(parents=True)
    config = json.loads((CONFIGS / f"{shape}.json").read_text())
    config |= {
        "architectures": [_ARCHITECTURES[config["model_type"]]],
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    (folder / "config.json").write_text(json.dumps(config))
    size = str(config["vocab_size"])
    subprocess.run([python, "-c", _TOKENIZER, str(folder), size], check=True)
