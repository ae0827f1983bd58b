"""The model: one decoder, a shelf of families that name its weights, checkpoints in and out, generation with a cache.

`build.load_model` is the door. Rooms above see `model.Model` (the contract) and never which family stands behind it.
"""
