"""Pinned images of the stack; engines' own are in models.yaml or below."""

from __future__ import annotations

from modeltainer.__about__ import __version__

VLLM = "vllm/vllm-openai:v0.11.0"
LLAMACPP_CPU = "ghcr.io/ggml-org/llama.cpp:server-b6700"
"""Multi-platform: amd64 and arm64 (docs/docker.md of ggml-org/llama.cpp)."""
LLAMACPP_CUDA = "ghcr.io/ggml-org/llama.cpp:server-cuda-b6700"
GATEWAY = f"modeltainer-gateway:{__version__}"
PROMETHEUS = "prom/prometheus:v3.5.0"
GRAFANA = "grafana/grafana:12.1.1"
LOKI = "grafana/loki:3.5.3"
ALLOY = "grafana/alloy:v1.10.2"
CADDY = "caddy:2.10.2-alpine"
