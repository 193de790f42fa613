"""Writes model folders with random weights: a program for vLLM's own interpreter.

Its arguments are a folder and JSON: for each model's name its configuration, with ``model_type``.
Of each it makes ``FOLDER/NAME`` with config.json and model.safetensors, in bfloat16.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

if __name__ == "__main__":
    torch.manual_seed(7)
    folder = Path(sys.argv[1])
    for name, fields in json.loads(sys.argv[2]).items():
        config = AutoConfig.for_model(**fields, bos_token_id=0, eos_token_id=1)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model.save_pretrained(folder / name)
