"""Settings that all tests share."""

import os
import signal

from hypothesis import HealthCheck, settings

# The same examples on every run, so that a red build is red again; HYPOTHESIS_PROFILE=search looks for new ones.
# Slow generation is no fault of the code under test: a loaded machine must not make a test red.
CALM = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow], "database": None, "print_blob": True}
settings.register_profile("repeatable", derandomize=True, **CALM)
settings.register_profile("search", max_examples=2000, **CALM)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

# A shell that runs this in the background ignores SIGINT, and every program that is started here would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
