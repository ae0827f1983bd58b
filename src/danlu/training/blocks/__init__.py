"""The decoder block as training runs it: its backward by hand, little kept, low-rank pairs inside the products."""
