"""Personal data and secrets: found, graded, acted on, and put on record without being kept.

Contract with whoever drives the rows:

    keyring = Keyring.open(Path(section.key_file))        # 0600, outside of the data; made when missing
    stage = PrivacyStage(policy, keyring)                  # a RowStage; policy = Policy.of(section)
    stage(samples) -> list[Outcome]                        # as every row stage
    stage.examine(samples) -> list[Examined]               # the same, with the second channel:
        Examined(outcome: Outcome, records: tuple[Record, ...])
    write_records(folder / f"{shard}.jsonl", records)      # atomic; one file per shard, any names; empty: no file
    read_records(folder) -> Iterator[Record]               # all files of the folder, by name

- `stage.look(texts)` is the like for `data.joined.Texts`: a `Look`. `examined` holds, by the row's number, only rows of
  which there is anything to say; all others are clean and come to `with_tags(sample, sample.tags | look.tags)`.
- `stage(samples)` is `[e.outcome for e in stage.examine(samples)]`: call one of the two, not both.
- A `Record` is a flat JSON object, safe to store: {sample, file, line, text, start, end, type, detector, score, level,
  action, mac, key}. `sample` is the id of the row as it LEAVES the stage (a digest of the raw row could be guessed
  back); a dropped row has `"x_…"`, an HMAC. `text` is the index in `texts_of`, then in `places_of`
  (sight.py), then the group; `start` and `end` count characters of the raw text.
  A row with `tags["parents"]` yields one record more: {sample, type: "derived", parents: […]}.
- The records of a run lie in `<run>/privacy/records/`; `danlu forget` reads them there. A shard cache may keep them
  beside the shard: they hold no value and no key.
- What the stage sets: `tags["level"]` (of the text as it stands now), `tags["level_found"]`, and for kept findings the
  flag `privacy_found` in `tags["flags"]`. A level a row brings along (its source's) is never lowered.
- `stage.key()` names the policy, the versions of all detectors and the id of the key, never the key. A pickled stage
  holds the key file's path and opens it where it arrives: nothing secret goes through pipes, caches or object stores.
- Fates: `privacy_dropped`, `privacy_forgotten` (drop), `privacy_masked` (change), `privacy_found` (flag); their values
  are counts by type.
- Derived rows inherit, and a teacher outside sees, what `danlu.data.synthesis.teacher.Clearance` says.
  Rows whose `tags["made_by"]` is teacher, augment or replay were made of masked text: the stage's own aliases in them
  are left as they are. A file cannot say so of its rows (`danlu.data.formats.format.RESERVED`).
"""

from danlu.data.privacy.keys import Keyring
from danlu.data.privacy.level import LEVELS, Level, grade, level_of
from danlu.data.privacy.policy import Policy
from danlu.data.privacy.records import Record, read_records, write_records
from danlu.data.privacy.stage import Examined, Look, PrivacyStage

__all__ = [
    "LEVELS",
    "Examined",
    "Keyring",
    "Level",
    "Look",
    "Policy",
    "PrivacyStage",
    "Record",
    "grade",
    "level_of",
    "read_records",
    "write_records",
]
