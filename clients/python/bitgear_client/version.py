"""The version of this distribution, spelled once."""

__version__ = "0.1.0"
