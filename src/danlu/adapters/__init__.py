"""Which weights train and how they fold back. A shelf; `adapter.py` is its contract, PEFT's format is what lies on disk."""
