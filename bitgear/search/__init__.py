"""A width for every layer of a master, found without training: docs/search.md."""
