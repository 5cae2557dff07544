"""Measurements: what a model costs on this machine. `python -m sam_edge.benchmarks --help`."""
