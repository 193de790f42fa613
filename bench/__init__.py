"""Measuring: what ModelTainer itself costs, and what an endpoint gives."""
