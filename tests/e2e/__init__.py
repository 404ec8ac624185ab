"""Tests of the product as it is run: a server process, a container."""
