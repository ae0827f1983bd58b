"""Data made by a teacher: questions and answers about documents, tasks in the manner of Self-Instruct, other wordings,
preference pairs. What is made is checked against the text it was made from, by rules, before it is data.

The one entrance is `synthesise` (`making.py`); a teacher is whatever answers prompts (`teacher.py`).
"""

from __future__ import annotations

from danlu.data.synthesis.making import synthesise
from danlu.data.synthesis.teacher import Ask, Clearance, Reply, Teacher
from danlu.data.synthesis.words import Reading
from danlu.data.synthesis.yields import Yield

__all__ = ["Ask", "Clearance", "Reading", "Reply", "Teacher", "Yield", "synthesise"]
