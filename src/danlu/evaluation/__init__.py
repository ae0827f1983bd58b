"""Evaluation: the same questions to the untouched base and to the tuned model; a Report with error bars, and a Gate.

Shelves: `metrics` judge one answer, `tasks` decide what is asked. Knows engines by their contract only; no torch.
"""
