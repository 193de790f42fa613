"""An engine that does exactly what a test tells it."""
