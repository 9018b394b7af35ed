"""TLS: the policy that makes contexts, and the listeners that use them."""
