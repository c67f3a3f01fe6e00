"""Inputs of every kind, damaged and made up, by the thousand: what the project does with each.

`python -m fuzz` runs them and writes the log; `corpus/` keeps those that once found a fault, and
the suite runs them again.
"""
