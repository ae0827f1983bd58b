"""Shelf of drivers: how each kind of engine process is started, watched, asked and drained."""
