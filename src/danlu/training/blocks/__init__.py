"""The decoder block as training runs it: forward and backward by hand, little kept, low-rank pairs inside the products."""
