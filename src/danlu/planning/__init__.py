"""Predicts parameters and memory from shapes alone. No torch, no GPU."""
