"""Merkle manifests: what rows and datasets were made of, each named by one digest over everything that made it.

A manifest is JSON: `parts`, each with a digest of its own, and `id`, the digest of those digests. Rows have one
(`dataset/manifest.json`: input files, stages, shards, counts); a dataset's names it as its parent. Nothing in it tells
when, where, under which keys or by how many processes, so equal inputs (under equal names, which rows bear as their
origin) give equal ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from danlu.core.errors import DataError
from danlu.core.files import sha256_json

FORMAT = 1
ROWS, DATASET = "rows", "dataset"


def make_manifest(kind: str, parts: Mapping[str, Any], parents: Sequence[str] = ()) -> dict[str, Any]:
    """`parents` are ids of other manifests."""
    digests = {name: sha256_json(value) for name, value in parts.items()}
    named = {"format": FORMAT, "kind": kind, "parents": list(parents), "digests": digests}
    return {"id": _prefix(kind) + sha256_json(named), **named, "parts": dict(parts)}


def check_manifest(manifest: Mapping[str, Any], where: str) -> None:
    """DataError naming the first part that is not what its digest says."""
    try:
        parts, kind = manifest["parts"], manifest["kind"]
        for name, value in parts.items():
            if sha256_json(value) != manifest["digests"].get(name):
                raise DataError("flow.manifest_changed", where=where, part=name)
        if make_manifest(kind, parts, manifest["parents"])["id"] != manifest["id"]:
            raise DataError("flow.manifest_changed", where=where, part="id")
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError("flow.manifest_unreadable", where=where) from error


def _prefix(kind: str) -> str:
    return {"rows": "r_", "dataset": "d_"}[kind]
