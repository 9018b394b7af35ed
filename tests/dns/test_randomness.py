import os

from dwaarx.dns import randomness
from dwaarx.dns.randomness import random16


def test_random_numbers_are_of_all_sorts():
    drawn = [random16() for _ in range(20_000)]
    assert all(len(number) == 2 for number in drawn)
    assert len(set(drawn)) > 15_000


def test_a_child_draws_its_own_numbers():
    random16()
    left, right = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(right, b"".join(random16() for _ in range(20)))
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(left, 40) != b"".join(random16() for _ in range(20))
    os.close(left)
    os.close(right)


def test_a_block_is_used_up_and_renewed(monkeypatch):
    monkeypatch.setattr(randomness, "_block", b"abcd")
    monkeypatch.setattr(randomness, "_position", randomness._BLOCK - 2)
    random16()
    assert len(random16()) == 2
    assert randomness._position == 2
