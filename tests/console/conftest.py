import pytest

from .running import Running


@pytest.fixture
def running():
    made = Running()
    yield made
    made.close()
