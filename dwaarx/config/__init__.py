"""The Dwaarfile: text in, a frozen model out; nothing here touches the network."""

from dwaarx.config.errors import ConfigError, Problem
from dwaarx.config.reader import default_path, load, parse

__all__ = ["ConfigError", "Problem", "default_path", "load", "parse"]
