"""The gateway: one OpenAI-compatible URL over all endpoints of a registry.

Control paths (health, models, docs, admin) are FastAPI's; the proxied paths go through raw ASGI to
our own upstream protocol on httptools (:mod:`modeltainer.gateway.proxy`).
"""
