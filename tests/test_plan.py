from __future__ import annotations

import time
from pathlib import Path

import pytest
from attrs import evolve

from dwaarx.config.model import (
    AcmeCa,
    AcmeCertificate,
    AcmeSettings,
    Address,
    AutomaticCertificates,
    CertificateFiles,
    Config,
    ConsoleSsh,
    InternalCertificate,
    Location,
    Rfc2136,
    Site,
    SiteAddress,
)
from dwaarx.plan import PlanError, ServedName, make_plan

FILES = (CertificateFiles(Path("/a.pem"), Path("/a.key")),)
OTHER = (CertificateFiles(Path("/b.pem"), Path("/b.key")),)
INTERNAL = InternalCertificate(("localhost",))


def config(*sites: Site, **options: object) -> Config:
    return Config("Dwaarfile", sites, (), Path("/storage"), **{"http_port": 0, **options})


def site(*hosts: str, port: int = 443, tls: bool = True, **options: object) -> Site:
    addresses = tuple(SiteAddress(host, port, tls) for host in hosts)
    values = {"certificate": FILES if tls else None, "location": Location("Dwaarfile", 3, 1)}
    return Site(addresses, (), **{**values, **options})


def test_sites_on_one_port_share_a_listener() -> None:
    plan = make_plan(config(site("a.example"), site("b.example", certificate=OTHER)))
    (listener,) = plan.values()
    assert listener.address == Address("", 443)
    assert listener.tls
    assert not listener.dot
    assert listener.names == (
        ServedName("a.example", FILES, (b"h2", b"http/1.1", b"http/1.0")),
        ServedName("b.example", OTHER, (b"h2", b"http/1.1", b"http/1.0")),
    )
    assert [served.host for served in listener.sites] == ["a.example", "b.example"]


def test_dot_on_the_https_port_joins_its_names() -> None:
    one = site("a.example", port=8443, dns_over_tls=(Address("", 8443), Address("", 853)))
    plan = make_plan(config(one))
    assert plan[Address("", 8443)].names == (
        ServedName("a.example", FILES, (b"h2", b"http/1.1", b"http/1.0", b"dot")),
    )
    dot = plan[Address("", 853)]
    assert dot.dot
    assert dot.names == (ServedName("a.example", FILES, (b"dot",)),)
    assert dot.sites == ()


def test_bind_of_the_site_before_the_global_one() -> None:
    plan = make_plan(config(site("a"), site("b", bind=("::1",)), bind=("127.0.0.1", "127.0.0.2")))
    assert sorted(map(str, plan)) == ["127.0.0.1:443", "127.0.0.2:443", "[::1]:443"]


def test_plain_port_redirects_to_each_sites_port() -> None:
    plan = make_plan(
        config(site("a"), site("b", port=8443), site("c", port=80, tls=False), http_port=80)
    )
    plain = plan[Address("", 80)]
    assert not plain.tls
    assert [(served.host, served.redirect) for served in plain.sites] == [
        ("c", None),
        ("a", 443),
        ("b", 8443),
    ]


def test_a_site_on_the_plain_port_is_not_redirected() -> None:
    plan = make_plan(config(site("a"), site("a", port=80, tls=False), http_port=80))
    (served,) = plan[Address("", 80)].sites
    assert served.redirect is None


def test_redirects_can_be_switched_off() -> None:
    assert list(make_plan(config(site("a"), http_port=80, redirect_http=False))) == [
        Address("", 443)
    ]


ACME = AutomaticCertificates(AcmeSettings((AcmeCa("https://ca.test/directory"),)))


@pytest.mark.parametrize("redirect", [True, False])
def test_the_plain_port_is_there_for_acme(redirect: bool) -> None:
    sites = site("a", certificate=ACME, bind=("127.0.0.1",)), site("b", bind=("127.0.0.2",))
    plan = make_plan(config(*sites, http_port=80, redirect_http=redirect))
    plain = [each for each in plan.values() if not each.tls]
    if redirect:
        assert [str(each.address) for each in plain] == ["127.0.0.1:80", "127.0.0.2:80"]
        assert [[served.host for served in each.sites] for each in plain] == [["a"], ["b"]]
    else:
        assert [str(each.address) for each in plain] == ["127.0.0.1:80"]
        assert plain[0].sites == ()
    assert plan[Address("127.0.0.1", 443)].names[0].source == AcmeCertificate("a", ACME.acme)


def test_no_plain_port_for_acme_if_it_is_switched_off() -> None:
    plan = make_plan(config(site("a", certificate=ACME), http_port=0, redirect_http=False))
    assert list(plan) == [Address("", 443)]


def test_no_plain_port_for_names_that_no_ca_signs() -> None:
    internal = evolve(ACME, internal=INTERNAL)
    one = site("localhost", certificate=internal)
    assert list(make_plan(config(one, http_port=80, redirect_http=False))) == [Address("", 443)]
    both = site("localhost", "a", certificate=internal)
    plan = make_plan(config(both, http_port=80, redirect_http=False))
    assert list(plan) == [Address("", 443), Address("", 80)]


def test_no_plain_port_for_names_that_are_proven_by_dns() -> None:
    """Another server may have port 80: the docs say that it is not needed."""
    by_dns = evolve(ACME, acme=evolve(ACME.acme, dns=Rfc2136(Address("ns", 53), "k", "c2U=")))
    one = site("*.a", certificate=by_dns)
    assert list(make_plan(config(one, http_port=80, redirect_http=False))) == [Address("", 443)]


def test_acmes_plain_port_must_not_serve_tls() -> None:
    one = site("a", port=8080, certificate=ACME)
    with pytest.raises(PlanError, match=r"http_port: \*:8080 serves TLS: set it to 0 or another"):
        make_plan(config(one, http_port=8080, redirect_http=False))


def test_a_site_on_the_plain_port_beside_acme() -> None:
    sites = site("a", certificate=ACME), site("c", port=80, tls=False)
    plan = make_plan(config(*sites, http_port=80, redirect_http=False))
    assert [served.host for served in plan[Address("", 80)].sites] == ["c"]


@pytest.mark.parametrize(
    ("sites", "options", "message"),
    [
        (
            [site("a"), site("b", tls=False)],
            {},
            "*:443 already serves TLS: it cannot serve plain HTTP",
        ),
        (
            [site("b", tls=False), site("a")],
            {},
            "*:443 already serves plain HTTP: it cannot serve TLS",
        ),
        ([site("a"), site("a")], {}, "a is already served on *:443"),
        ([site(""), site("")], {}, "any host is already served on *:443"),
        (
            [site("a"), site("a", port=444, certificate=OTHER, dns_over_tls=(Address("", 443),))],
            {},
            "a already has another certificate on *:443",
        ),
        ([site("a", port=80)], {"http_port": 80}, "http_port: *:80 serves TLS"),
    ],
)
def test_what_does_not_go_together(
    sites: list[Site], options: dict[str, object], message: str
) -> None:
    with pytest.raises(PlanError) as caught:
        make_plan(config(*sites, **options))
    assert str(caught.value).startswith(f"Dwaarfile:3:1: {message}")


EVERY = Site((SiteAddress("a", 443),), (), FILES, location=Location("Dwaarfile", 1, 1))


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        (
            [EVERY, site("b", bind=("127.0.0.1",))],
            (
                "3:1: cannot listen on both 127.0.0.1:443 and *:443 (the site at Dwaarfile:1:1): "
                "the second includes the first"
            ),
        ),
        (
            [site("b", bind=("::1",)), EVERY],
            (
                "3:1: cannot listen on both [::1]:443 and *:443 (the site at Dwaarfile:1:1): "
                "the second includes the first"
            ),
        ),
        (
            [site("b", bind=("0.0.0.0", "::"))],
            ("3:1: cannot listen on both 0.0.0.0:443 and [::]:443: the second includes the first"),
        ),
        (
            [site("b", bind=("0.0.0.0",), dns_over_tls=(Address("127.0.0.1", 443),))],
            (
                "3:1: cannot listen on both 127.0.0.1:443 and 0.0.0.0:443: "
                "the second includes the first"
            ),
        ),
        (
            [EVERY, site("b", bind=("::",))],
            (
                "3:1: cannot listen on both [::]:443 and *:443 (the site at Dwaarfile:1:1): "
                "the second includes the first"
            ),
        ),
    ],
)
def test_addresses_that_overlap(sites: list[Site], message: str) -> None:
    with pytest.raises(PlanError) as caught:
        make_plan(config(*sites))
    assert str(caught.value) == f"Dwaarfile:{message}"


def test_addresses_that_do_not_overlap() -> None:
    sites = [
        site("a", bind=("0.0.0.0", "::1")),
        site("b", port=444, bind=("127.0.0.1", "127.0.0.2")),
        site("c", port=445),
    ]
    assert len(make_plan(config(*sites))) == 5


@pytest.mark.parametrize(
    ("own", "bind", "overlap"),
    [
        ("127.0.0.1", (), True),
        ("", ("127.0.0.1",), True),
        ("", (), True),
        ("::1", ("::1",), True),
        ("::1", ("127.0.0.1",), False),
        ("127.0.0.1", ("127.0.0.2",), False),
    ],
)
def test_the_console_has_a_port_of_its_own(own: str, bind: tuple[str, ...], overlap: bool) -> None:
    place = Location("Dwaarfile", 9, 9)
    console = ConsoleSsh(Address(own, 443), Path("/keys"), place)
    if not overlap:
        assert make_plan(config(site("a"), bind=bind, console=console))
        return
    with pytest.raises(PlanError) as caught:
        make_plan(config(site("a"), bind=bind, console=console))
    assert str(caught.value) == (
        f"{place}: cannot listen on {console.address} for the console: "
        f"{Address(bind[0] if bind else '', 443)} is a site's"
    )
    other = ConsoleSsh(Address(own, 5199), Path("/keys"), place)
    assert make_plan(config(site("a"), bind=bind, console=other))


def test_many_sites_take_linear_time() -> None:
    def seconds(count: int) -> float:
        sites = [site(f"h{n}") for n in range(count)]
        begin = time.process_time()
        make_plan(config(*sites))
        return time.process_time() - begin

    # Ten times the sites take ten times as long, some half a second; quadratic would be a hundred
    # times, half a minute. The margin is the machine's.
    assert seconds(40_000) < max(40 * seconds(4_000), 5)


def test_live_additions_are_told_apart() -> None:
    live = Site((), (), OTHER, (Address("127.0.0.1", 853),), location=Location("console", 1, 1))
    plan = make_plan(config(site("a")), (live,))
    assert plan[Address("", 443)].origin == "Dwaarfile"
    added = plan[Address("127.0.0.1", 853)]
    assert added.origin == "console"
    assert added.names == (ServedName("", OTHER, (b"dot",)),)


def test_internal_certificates_are_equal_by_their_names() -> None:
    plan = make_plan(
        config(
            site("localhost", certificate=INTERNAL, dns_over_tls=(Address("", 443),)),
        )
    )
    assert len(plan[Address("", 443)].names) == 1
