"""Tells twistd of dwaarx; the service itself is made in `dwaarx.tap`."""

from twisted.application.service import ServiceMaker

dwaarx = ServiceMaker(
    "dwaarx",
    "dwaarx.tap",
    "A TLS frontend for the web and for DNS: HTTPS reverse proxy, DoT and DoH.",
    "dwaarx",
)
