"""Client libraries that people use, unchanged, against the gateway with a real engine behind it."""
