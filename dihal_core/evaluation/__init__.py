"""Likelihood of teacher and hybrids on windows of text, with intervals over documents."""
