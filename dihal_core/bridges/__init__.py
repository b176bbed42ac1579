"""Bridges from the embedding output to a hidden layer: denoisers, controls, noise process, causality probe."""
