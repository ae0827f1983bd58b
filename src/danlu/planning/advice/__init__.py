"""Advice: which base, method and numbers, and why; other opinions beside them. A prediction, no measurement."""
