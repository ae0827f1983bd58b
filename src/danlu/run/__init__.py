"""The run directory: the only state. Everything else reads or mirrors it. Torch-free."""
