from dwaarx.certs.matching import issued_by, keys_match
from tests.certs import pki


def test_an_issuer_is_known_by_its_signature():
    root = pki.make_ca("Root")
    leaf = pki.make_leaf(root)
    impostor = pki.make_ca("Root")
    assert issued_by(leaf.certificate, root.certificate)
    assert not issued_by(leaf.certificate, impostor.certificate)
    assert not issued_by(root.certificate, leaf.certificate)


def test_a_key_is_that_of_one_certificate():
    one, other = pki.make_ca("One"), pki.make_ca("Other")
    assert keys_match(one.key, one.certificate)
    assert not keys_match(one.key, other.certificate)
