"""Where a checkpoint keeps its chat templates: files of their own, or its tokenizer's config. Text only, no Jinja."""

from __future__ import annotations

from pathlib import Path

import orjson

from danlu.core.errors import RecipeError, TemplateError


def own_texts(folder: Path) -> tuple[dict[str, str], str]:
    """The checkpoint's templates by name, and the file they stand in; a file of its own goes before the config."""
    if (path := folder / "chat_template.jinja").is_file():
        return {"default": _text(path)}, path.name
    for name in ("chat_template.json", "tokenizer_config.json"):
        path = folder / name
        if not path.is_file():
            continue
        found = _chat_template(path)
        if isinstance(found, str):
            return {"default": found}, name
        if isinstance(found, list) and found:
            texts = {entry["name"]: entry["template"] for entry in found}
            if "default" not in texts and len(texts) > 1:
                raise RecipeError("template.no_default", where=str(path), known=", ".join(texts))
            return texts if "default" in texts else {"default": next(iter(texts.values()))}, name
    return {}, ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TemplateError("template.unreadable", where=str(path), problem=error.reason) from error


def _chat_template(path: Path) -> object:
    try:
        config = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise TemplateError("template.unreadable", where=str(path), problem=str(error)) from error
    return config.get("chat_template") if isinstance(config, dict) else None
