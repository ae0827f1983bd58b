"""The mathematics under the model: one file per op, a readable reference beside each fast path. Knows no model and
no recipe.

To add one: a file with `reference_<op>` and `<op>`, and a test in `tests/unit/ops` that holds the second to the first,
forward and backward, in a stated tolerance.
"""
