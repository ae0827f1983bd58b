"""The gates' parts: text as tokens, one run in its own process, and the page that shows the curves."""
