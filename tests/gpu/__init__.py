"""What only a real GPU can show: ``pytest -m gpu`` on a machine that has one."""
