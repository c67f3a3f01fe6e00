"""Naive implementations that fast paths are compared with."""
