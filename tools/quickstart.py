"""What `make run` prints: the commands to try, with the ports and the CA file that they need."""

from __future__ import annotations

import shlex
import sys

from dwaarx.config import load

TEXT = """
dwaarx is about to serve {file}. Try, in another terminal ({bin} holds the programs):

  curl --cacert {ca} --cert-status https://localhost:{https}/
  openssl s_client -connect localhost:{https} -servername localhost -status -CAfile {ca} </dev/null
  kdig @127.0.0.1 -p {dot} +tls +tls-ca={ca} +tls-hostname=localhost hello.test
  kdig @127.0.0.1 -p {https} +https +tls-ca={ca} +tls-hostname=localhost hello.test
  curl --cacert {ca} --doh-url https://localhost:{https}/dns-query https://hello.test:{https}/
  {bin}/dwaarx console --config {file} 'showCertificates()'
  {bin}/dwaarx console --config {file}

The CA to trust is {ca}
(made at the first start). Change {file}, then `kill -HUP` the process or reloadConfig()
on the console: the change goes live. Ctrl-C ends it.
"""


def main() -> None:
    """Print the text for a Dwaarfile (argument 1) and the folder of the programs (argument 2)."""
    config = load(sys.argv[1])
    site = next(site for site in config.sites if site.dns_over_tls)
    https = site.addresses[0].port
    dot = next(address.port for address in site.dns_over_tls if address.port != https)
    print(
        TEXT.format(
            file=shlex.quote(config.file),
            bin=shlex.quote(sys.argv[2]),
            ca=shlex.quote(str(config.storage / "internal" / "root.crt")),
            https=https,
            dot=dot,
        ),
        flush=True,
    )


main()
