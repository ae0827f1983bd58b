"""From files to packed tokens: read, account for, split, render, encode, pack. Knows no model, no method, no torch."""
