"""Loads a model by vLLM, without answering anything: a program for vLLM's own interpreter.

Its arguments are the model's folder and JSON: what else goes to ``vllm.LLM``. vLLM's own log tells
the KV cache; each of its workers prints ``weights: BYTES``, which the log of a GPU would tell as
"Model loading took", and the end is ``block: TOKENS``.
"""

from __future__ import annotations

import json
import sys

from torch import nn
from vllm import LLM
from vllm.config import LoadConfig, ModelConfig
from vllm.model_executor.model_loader import register_model_loader
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader


@register_model_loader("counted")  # in the workers too, which import this module
class CountedLoader(DefaultModelLoader):  # type: ignore[misc]  # of a module not there
    """vLLM's own, which tells how large the parameters are that it has made and filled.

    They are counted before kernels repack them, for which a CPU gives the originals up.
    """

    def __init__(self, load_config: LoadConfig) -> None:
        load_config.load_format = "safetensors"
        super().__init__(load_config)

    def load_weights(self, model: nn.Module, model_config: ModelConfig) -> None:
        super().load_weights(model, model_config)
        storages = {one.data_ptr(): one.nbytes for one in model.parameters()}
        print(f"weights: {sum(storages.values())}", flush=True)


if __name__ == "__main__":
    engine = LLM(sys.argv[1], load_format="counted", **json.loads(sys.argv[2])).llm_engine
    print(f"block: {engine.vllm_config.cache_config.block_size}")
