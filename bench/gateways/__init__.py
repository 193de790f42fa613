"""What a gateway costs, beside others: ``python -m modeltainer.bench.gateways``."""
