"""Fixtures for all tests. `fix_*.py` each hold one kind."""

import signal

from hypothesis import HealthCheck, settings

pytest_plugins = ["fix_freezers", "fix_home", "fix_server", "fix_shared_memory"]

# How long an example takes says nothing on a machine that does other things as well.
settings.register_profile("zorya", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("zorya")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs so, and what they start inherits it; tests interrupt what they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
