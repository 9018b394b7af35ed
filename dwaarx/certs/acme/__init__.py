"""Certificates by ACME (RFC 8555): the account, the order, the proof, the certificate."""
