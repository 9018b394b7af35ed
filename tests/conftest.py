"""What all tests share: how hypothesis runs."""

from hypothesis import settings

# A machine that is busy makes an example slow now and then; that is no failure.
settings.register_profile("dwaarx", deadline=None)
settings.load_profile("dwaarx")
