"""The gateway: one OpenAI-compatible URL over all endpoints of a registry.

Control paths (health, models, docs, admin) are FastAPI's. On the proxied paths, plain requests are
carried from the client's connection to the engine's and back by callbacks alone
(:mod:`modeltainer.gateway.fast_path`); all others, and those that cease to be plain, go through raw
ASGI in a task (:mod:`modeltainer.gateway.proxy`). Either way the engine is spoken to by our own
protocol on httptools (:mod:`modeltainer.gateway.upstream`).
"""
