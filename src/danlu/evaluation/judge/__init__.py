"""A model as a judge of answers: which of two is better, asked in both orders, and how good one is, from 1 to 5.

A judge is an opinion with biases (position, length, its own kin), so each is measured beside what it says, and
`sheet.py` holds it to people's judgement.
"""
