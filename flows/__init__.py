"""Flows: a study's table of contents. No arithmetic, no torch."""
