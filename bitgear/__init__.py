"""bitgear: one INT8 master checkpoint, served at any width from 8 to 2 bits."""

__version__ = "0.1.0"
