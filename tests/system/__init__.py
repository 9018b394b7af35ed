"""The real service as a process, driven by real programs."""
