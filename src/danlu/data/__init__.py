"""From files to packed tokens: read, account for, split, render, encode, pack. Knows neither model nor method; no torch."""
