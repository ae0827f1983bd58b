"""The conveyor: files become shards, shards go through the row stages anywhere, whole-data steps see small columns.

plan.py       which files, cut where: a shard never mixes files and is named by its content
passing.py    what one shard goes through: read > row stages > signatures > privacy; a pure function
piece.py      what comes out: rows, refused rows, columns
codec.py      a row as Arrow or JSON, and back
store.py      shards on disk under the digest of all that made them: incremental, and whole after any kill
executors/    who runs shards: this process, worker processes, Ray
account.py    fates folded into the ledger, each row once
manifest.py   Merkle manifest of a dataset
"""
