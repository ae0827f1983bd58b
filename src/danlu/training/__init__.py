"""The one training loop and what it needs. `methods/` says what is learnt, `trainer.py` how."""
