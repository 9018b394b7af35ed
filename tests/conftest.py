"""What all tests share: how hypothesis runs."""

from __future__ import annotations

import os

from hypothesis import settings

# A machine that is busy makes an example slow now and then; that is no failure. In CI the same
# examples come each time, so that a change is judged by what it changes; everybody else's runs
# look for new ones.
settings.register_profile("dwaarx", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "dwaarx")


# A name of a test that is longer is data, such as a certificate.
LONGEST_NAME = 80


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a test by its argument where that is made anew in each process, as signatures are.

    Processes that share the tests out must agree on their names.
    """
    if isinstance(val, str | bytes) and len(val) > LONGEST_NAME:
        return argname
    return None
