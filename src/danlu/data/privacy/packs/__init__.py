"""Policies that come with danlu, as files: minimal, finance, medical, legal."""
