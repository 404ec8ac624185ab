"""Measurements: each script alternates what it compares in one run and writes medians, spread and ratio as JSON."""
