"""Certificates: loading, keeping, renewing, and the OCSP responses stapled to them."""
