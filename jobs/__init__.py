"""What runs on the compute node: the agent that starts, watches, registers and ends one engine."""
