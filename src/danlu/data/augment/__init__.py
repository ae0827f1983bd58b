"""The shelf of augmentation: other wordings of train samples. Off by default; only the train part is ever varied.

To add a method: a class with the contract of `augmenter.py` in a file here and one line below (or an entry point
`danlu.augment`).
"""

from __future__ import annotations

from collections.abc import Iterable

from danlu.core.progress import Progress
from danlu.core.shelf import Shelf
from danlu.data.augment.augmenter import Augmenter
from danlu.data.augment.varying import vary_all
from danlu.data.sample import Sample
from danlu.data.synthesis.teacher import Teacher
from danlu.data.synthesis.words import Reading
from danlu.recipe.synthesis import AugmentSection

AUGMENTERS: Shelf[type[Augmenter]] = Shelf(
    "augment",
    {
        "back-translation": "danlu.data.augment.back_translation:BackTranslation",
        "eda": "danlu.data.augment.eda:Eda",
        "paraphrase": "danlu.data.augment.paraphrase:Paraphrase",
    },
)


def augment(
    train_samples: Iterable[Sample],
    section: AugmentSection,
    teacher: Teacher | None,
    *,
    reading: Reading,
    progress: Progress | None = None,
) -> list[Sample]:
    """Variants only, to be put behind `train_samples`, which are gone through more than once; [] where the section
    names no method.

    What the user asks (or a Label's text) is worded anew; answers and labels stay as they are. Variants carry `made_by`
    "augment", `augment` the method, `parents` [id], `level` and `masked` inherited and the parent's `group`. A variant
    whose numbers, names, negations or language differ from its parent's is thrown away. Same input, same variants.
    `paraphrase` and `back-translation` need a teacher (DataError without one); `eda` needs none.
    """
    return vary_all(train_samples, section, teacher, AUGMENTERS, reading=reading, progress=progress)
