"""dwaarx: a TLS frontend for the web and for DNS."""

__version__ = "0.1.0"
