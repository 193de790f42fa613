"""Containers without root: Apptainer's command line, and images as SIF files in a shared cache."""
