"""Four ways to answer a user's questions, measured side by side: a prompt, retrieval, tuning, and both.

`bm25.py` and `retrieval.py` find passages, `asking.py` words what each arm is asked, `mix.py` weighs what was measured.
"""
