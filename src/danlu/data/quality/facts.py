"""What the data report knows, as plain JSON values: counts, histograms, small samples. Bounded, whatever the rows.

`ConveyorFacts` is what only whole-data steps can say (funnel, twins, privacy, synthesis, split, tokens). Everything
about single rows is counted shard by shard in a `Tally` (tally.py). `gather` joins both into `DataFacts`. No value that
privacy found ever stands here: texts in clusters and conflicts are masked by whoever fills them, and once more by
`gather`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

VERSION = 1
MAX_CLUSTERS = 20
MAX_CONFLICTS = 20
MAX_MEMBERS = 6
MAX_AUDIT = 30
MAX_TEXT = 400


@dataclass(frozen=True, slots=True)
class StageFacts:
    """One step of the funnel. `dropped`, `changed`, `flagged`: rows by reason (keys of the room `ledger`)."""

    name: str
    rows_in: int
    rows_out: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    changed: Mapping[str, int] = field(default_factory=dict)
    flagged: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Histogram:
    """`counts[i]` values lie in [edges[i], edges[i + 1]); the last bar is open. `largest` and `total` are exact."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    total: float = 0.0
    largest: float = 0.0

    @property
    def num(self) -> int:
        return sum(self.counts)

    @property
    def mean(self) -> float:
        return self.total / self.num if self.num else 0.0

    def quantile(self, level: float) -> float:
        """The upper edge of the bar in which this share of the values is reached: at most one bar too high."""
        wanted, seen = level * self.num, 0
        for index, count in enumerate(self.counts):
            seen += count
            if count and seen >= wanted:
                return min(self.edges[index + 1], self.largest) if index + 1 < len(self.edges) else self.largest
        return 0.0


@dataclass(frozen=True, slots=True)
class LengthFacts:
    """Token lengths of the train rows at the planned context. `num_over` rows were longer than the context before
    `over_length` did its work; `num_cut` of them lost tokens or went altogether."""

    context: int = 0
    over_length: str = ""
    tokens: Histogram | None = None
    num_over: int = 0
    num_cut: int = 0
    num_tokens: int = 0
    num_supervised: int = 0


@dataclass(frozen=True, slots=True)
class Member:
    """A row of a cluster or a conflict: where it stands, and its text (masked, cut)."""

    where: str
    text: str


@dataclass(frozen=True, slots=True)
class Cluster:
    """`size` rows that say the same; at most MAX_MEMBERS of them are shown, the one that was kept first."""

    size: int
    members: tuple[Member, ...]
    is_exact: bool = False


@dataclass(frozen=True, slots=True)
class TwinFacts:
    """Of `num_rows` rows compared, `num_exact` and `num_near` were twins of a row that stays."""

    num_rows: int
    num_exact: int = 0
    num_near: int = 0
    num_clusters: int = 0
    threshold: float = 0.0
    top: tuple[Cluster, ...] = ()
    sampled: int = 0
    """Above 0: near twins were only looked for among so many rows."""
    dropped: str = "all"
    """Which twins were left out: all, exact (near ones are only named here), near, none."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """One question and its differing answers."""

    question: str
    answers: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class ConflictFacts:
    num_questions: int = 0
    num_rows: int = 0
    top: tuple[Conflict, ...] = ()


@dataclass(frozen=True, slots=True)
class PrivacyCount:
    """So many findings of one type and level were treated in one way (mask, type, pseudonym, drop, report)."""

    type: str
    level: str
    action: str
    count: int


@dataclass(frozen=True, slots=True)
class SynthesisFacts:
    """What a teacher was asked for and what became of it. `num_grounded` of `num_checked` answers had every evidence
    span found in its source; `rejected` counts by reason."""

    num_calls: int = 0
    num_made: int = 0
    num_kept: int = 0
    num_checked: int = 0
    num_grounded: int = 0
    num_unanswerable: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    cost: float = 0.0
    currency: str = ""
    teacher: str = ""


@dataclass(frozen=True, slots=True)
class DocumentFacts:
    """A file that is a document (not a table of rows): what was read from it, and the rows that came of it."""

    name: str
    id: str = ""
    """sha256 of the file's bytes: rows name their document by its name or by this."""
    num_chars: int = 0
    num_passages: int = 0
    num_rows: int = 0


@dataclass(frozen=True, slots=True)
class CoverageFacts:
    """`documents`: those without rows first, then the leanest; at most 200."""

    num_documents: int = 0
    num_without: int = 0
    documents: tuple[DocumentFacts, ...] = ()


@dataclass(frozen=True, slots=True)
class Topic:
    """A cluster of the sample by its characteristic words; `share` of the sample."""

    share: float
    words: tuple[str, ...]
    label: str = ""


@dataclass(frozen=True, slots=True)
class DiversityFacts:
    """Measured on `num_sampled` rows. `distinct[n]`: differing n-grams over all n-grams of a fixed number of tokens.
    `mean_nearest`: mean cosine similarity of a row to its nearest neighbour in the sample (0 apart, 1 the same)."""

    num_sampled: int = 0
    distinct: Mapping[str, float] = field(default_factory=dict)
    mean_nearest: float = 0.0
    topics: tuple[Topic, ...] = ()


@dataclass(frozen=True, slots=True)
class ReplayFacts:
    """General data mixed in: its share of all train tokens, as wanted and as it is."""

    wanted: float = 0.0
    num_tokens: int = 0
    share: float = 0.0
    made_by: str = ""


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One row for a person to judge. `prompt` and `answer` are the text as trained on, cut at 4,000 characters."""

    id: str
    where: str
    kind: str
    prompt: str
    answer: str
    flags: tuple[str, ...] = ()
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ConveyorFacts:
    """What the conveyor and the whole-data steps tell; every field may be left at its default."""

    name: str = ""
    dataset: str = ""
    """The dataset's id: root of the manifests, or the dataset's digest."""
    template: str = ""
    """Digest of the template contract."""
    created: str = ""
    stages: tuple[StageFacts, ...] = ()
    lengths: LengthFacts | None = None
    parts: Mapping[str, int] = field(default_factory=dict)
    """Rows of train, validation and test after the split."""
    twins: TwinFacts | None = None
    conflicts: ConflictFacts | None = None
    privacy: tuple[PrivacyCount, ...] | None = None
    """None: privacy was not asked for; (): asked for, nothing found."""
    synthesis: SynthesisFacts | None = None
    documents: tuple[DocumentFacts, ...] = ()
    """Every document read, also those of which no row is left; `num_rows` is filled by `gather`."""
    certificate: Mapping[str, Any] = field(default_factory=dict)
    replay: ReplayFacts | None = None
    has_questions: bool = False
    """The project asks questions of its own: rows need not be held out."""
    reproduce: Mapping[str, str] = field(default_factory=dict)
    """Footer: danlu's version, command line, recipe digest."""


@dataclass(frozen=True, slots=True)
class DataFacts:
    """All that the report shows. `balance`: per view (kinds, labels, languages, sources, levels, made_by) the rows of
    train by value, largest first, at most 50, the rest under "…". `scores`: distributions by name; `rules` is danlu's
    own score in [0, 1] of a sample of `num_scored` rows, others were found in `tags["scores"]`."""

    told: ConveyorFacts
    num_rows: int
    parts: Mapping[str, int] = field(default_factory=dict)
    chars: Histogram | None = None
    balance: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    flags: Mapping[str, int] = field(default_factory=dict)
    scores: Mapping[str, Histogram] = field(default_factory=dict)
    rules: Mapping[str, int] = field(default_factory=dict)
    """Broken rules (scores.py) among the `num_scored` sampled rows."""
    num_scored: int = 0
    coverage: CoverageFacts | None = None
    diversity: DiversityFacts | None = None
    audit: tuple[AuditRow, ...] = ()
    version: int = VERSION

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = _ADAPTER.dump_python(self, mode="json")
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> DataFacts:
        return _ADAPTER.validate_python(value)


_ADAPTER = TypeAdapter(DataFacts)
