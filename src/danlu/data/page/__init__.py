"""A page as it is seen: from pieces of text with places to text in reading order. Knows nothing of PDF."""
