"""Two hundred certificates of one responder are stapled within a minute, whatever another does.

Alone in its file, for it takes that minute: so that others run meanwhile.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

from tests.system.ocsp_peers import ALLOW, Pki, Responder, curl_accepts, handshake
from tests.system.processes import Service, free_port, until

COUNT = 200
OF_THE_OTHER = 20
WITHIN = 60.0

# Seconds between requests for certificates without a staple; and how long a busy machine
# may hold up those whose time has come.
SPACING = 0.2
STALL = 10.0


def test_one_responder_hangs_and_200_certificates_of_another_are_stapled(
    tmp_path: Path, serve: Callable[[str], Service]
) -> None:
    good, other = Pki(tmp_path, name="Good"), Pki(tmp_path, name="Other")
    with Responder(tmp_path, good.issuer) as responder, Responder(tmp_path, other.issuer) as hangs:
        hangs.behave("hang")
        port = free_port()
        # Those that hang come first, for a queue of all would begin with them.
        waiting = [
            other.leaf(f"other{index}.test", ocsp=[hangs.url]) for index in range(OF_THE_OTHER)
        ]
        leaves = good.leaves(COUNT, ocsp=[responder.url])
        names = [f"other{index}.test" for index in range(OF_THE_OTHER)]
        names += [f"site{index}.test" for index in range(COUNT)]
        sites = "".join(
            f"{name}:{port} {{\nbind 127.0.0.1\n{site.tls}\nrespond hello\n}}\n"
            for name, site in zip(names, [*waiting, *leaves], strict=True)
        )
        begun = time.monotonic()
        service = serve(f"{{\nhttp_port 0\n{ALLOW}\n}}\n{sites}")

        def stapled() -> set[str]:
            return set(re.findall(r"\] stapled name=\S* ?\S*/(site\d+\.test)\.pem", service.log()))

        left = WITHIN - (time.monotonic() - begun)
        until("all the staples", lambda: len(stapled()) == COUNT, left)
        for index in (0, COUNT // 2, COUNT - 1):
            assert handshake(port, f"site{index}.test", good.trust).good
            assert curl_accepts(port, f"site{index}.test", good.trust)
        # The others are served, without.
        for index in (0, OF_THE_OTHER - 1):
            seen = handshake(port, f"other{index}.test", other.trust)
            assert seen.serial == waiting[index].serial
            assert not seen.stapled
        asked = responder.seen()
        assert len(asked) == COUNT
        assert {each.serial for each in asked} == {each.serial for each in leaves}
        # No storm: five in a second, but for what was due while the service was busy to start.
        times = sorted(each.at for each in asked)
        assert times[-1] - times[0] > (COUNT - 1) * SPACING - STALL
        assert 0 < len(hangs.seen()) <= 2 * OF_THE_OTHER
