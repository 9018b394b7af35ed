"""What all tests share: how hypothesis runs."""

import os

from hypothesis import settings

# A machine that is busy makes an example slow now and then; that is no failure. In CI the same
# examples come each time, so that a change is judged by what it changes; everybody else's runs
# look for new ones.
settings.register_profile("dwaarx", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "dwaarx")
