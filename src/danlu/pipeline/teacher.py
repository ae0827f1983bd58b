"""Teachers: any OpenAI-compatible URL, or an engine of this machine, as what `danlu.data.synthesis` asks.

What was answered once is found again by the content of the request, so a run that was killed pays for nothing twice.
"""

from __future__ import annotations

from pathlib import Path

from danlu.core.errors import EngineError
from danlu.core.progress import Progress
from danlu.engines.cache import AnswerCache
from danlu.engines.cost import Bill, Price
from danlu.engines.remote import Endpoint
from danlu.pipeline.local_teacher import LocalTeacher
from danlu.pipeline.remote_teacher import RemoteTeacher
from danlu.recipe.model import ModelSection
from danlu.recipe.synthesis import TeacherSection


def open_teacher(
    section: TeacherSection, model: ModelSection, cache_folder: Path, *, seed: int, progress: Progress
) -> RemoteTeacher | LocalTeacher:
    """The teacher that a recipe names: its URL, else a model on this machine, else the recipe's own base."""
    cache = AnswerCache(cache_folder)
    if section.url is None:
        own = model if section.model is None else ModelSection(base=section.model, hub=model.hub, mirror=model.mirror)
        return LocalTeacher(own, cache, seed=seed, progress=progress)
    if section.model is None:
        raise EngineError("synthesis.no_teacher_model", where="data.teacher.model", given=section.url)
    price = None
    if section.prompt_price is not None or section.answer_price is not None:
        price = Price(section.prompt_price or 0.0, section.answer_price or 0.0, currency="")
    endpoint = Endpoint(
        url=section.url, model=section.model, key_variable=section.key_variable, num_parallel=section.parallel,
        key_file=Path(section.key_file) if section.key_file else None, timeout_s=section.timeout_s,
        ca_file=Path(section.ca_file) if section.ca_file else None,
    )  # fmt: skip
    bill = Bill(price, cap=section.max_cost)
    return RemoteTeacher(endpoint, cache, bill, levels=frozenset(section.levels), max_tokens=section.max_tokens)
