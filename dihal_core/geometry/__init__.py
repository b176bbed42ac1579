"""Locate: the three geometry proxies, the paper's subsample protocol, the score, its agreement with bridge losses."""
