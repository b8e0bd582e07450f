"""Fixtures for all tests. `fix_*.py` each hold one kind."""

pytest_plugins = ["fix_home", "fix_server"]
