"""The same models.yaml on a workstation, by Docker Compose."""
