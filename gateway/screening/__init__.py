"""Detectors of unwanted content: pure functions from text to findings."""
