"""The OpenAPI 3.1 document of the data plane, made from the same rules that check requests. Answers are described as
far as the gateway promises them: what an engine adds to a choice is the engine's.
"""

from __future__ import annotations

from typing import Any

from danlu.openai.bodies import bodies
from danlu.serving.caps import Caps
from danlu.version import VERSION

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_EVENT: Schema = {
    "type": "object",
    "description": "A server-sent event: its `data` is a chunk of the answer as JSON, at the end `[DONE]`",
    "properties": {"data": _TEXT},
    "required": ["data"],
}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {"message": _TEXT, "type": _TEXT, "param": {"type": ["string", "null"]}, "code": _TEXT},
        }
    },
}
_USAGE = {
    "type": "object",
    "required": ["prompt_tokens", "total_tokens"],
    "properties": {"prompt_tokens": _COUNT, "completion_tokens": _COUNT, "total_tokens": _COUNT},
}
_MODEL = {
    "type": "object",
    "required": ["id", "object", "created", "owned_by"],
    "properties": {"id": _TEXT, "object": {"const": "model"}, "created": _COUNT, "owned_by": _TEXT},
}
_TOGETHER = {
    "if": {"required": ["top_logprobs"], "properties": {"top_logprobs": {"type": "integer", "minimum": 1}}},
    "then": {"required": ["logprobs"], "properties": {"logprobs": {"const": True}}},
}
"""The one rule between fields."""
_ERRORS = {
    "400": "Not understood, or declined by the engine",
    "401": "No key, or a wrong one",
    "403": "A browser page of another origin",
    "404": "No such model for this key",
    "405": "Another method",
    "408": "The body came too slowly",
    "413": "The body is too large",
    "415": "Not application/json",
    "429": "A limit of the key: `Retry-After`, or its quota",
    "431": "Headers too large",
    "500": "A fault of the server",
    "502": "The engine failed",
    "503": "No engine now: `Retry-After`",
    "504": "The engine took too long",
}


def document(caps: Caps) -> Schema:
    """What is taken under these caps, as JSON."""
    records = bodies(caps)
    schemas = {
        "ChatRequest": records["chat"].schema() | _TOGETHER,
        "CompletionRequest": records["completion"].schema(),
        "EmbeddingRequest": records["embedding"].schema(),
        "ChatAnswer": _answer("chat.completion", "choices", {"id": _TEXT, "model": _TEXT}),
        "CompletionAnswer": _answer("text_completion", "choices", {"id": _TEXT, "model": _TEXT}),
        "EmbeddingAnswer": _answer("list", "data", {"model": _TEXT}),
        "Model": _MODEL,
        "Models": _list_of("Model"),
        "Error": _ERROR,
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "danlu", "version": VERSION, "description": "A private model API, OpenAI-compatible."},
        "paths": {
            "/v1/chat/completions": {"post": _question("createChatCompletion", "Chat", has_stream=True)},
            "/v1/completions": {"post": _question("createCompletion", "Completion", has_stream=True)},
            "/v1/embeddings": {"post": _question("createEmbedding", "Embedding", has_stream=False)},
            "/v1/models": {"get": _get("listModels", "Models")},
            "/v1/models/{model}": {
                "get": _get("retrieveModel", "Model"),
                "parameters": [{"name": "model", "in": "path", "required": True, "schema": _TEXT}],
            },
            "/healthz": {"get": _open("health", "The worker lives")},
            "/readyz": {"get": _open("readiness", "Requests are taken", also={"503": "Not yet, or no more"})},
        },
        "components": {
            "schemas": schemas,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _answer(kind: str, what: str, more: Schema) -> Schema:
    known = {"object": {"const": kind}, what: {"type": "array", "items": {"type": "object"}}, "usage": _USAGE} | more
    return {"type": "object", "required": ["object", what], "properties": known}


def _list_of(name: str) -> Schema:
    items = {"type": "array", "items": _ref(name)}
    return {
        "type": "object",
        "required": ["object", "data"],
        "properties": {"object": {"const": "list"}, "data": items},
    }


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(name: str) -> Schema:
    return {"application/json": {"schema": _ref(name)}}


def _refusals() -> Schema:
    return {status: {"description": text, "content": _json("Error")} for status, text in _ERRORS.items()}


def _question(operation: str, name: str, *, has_stream: bool) -> Schema:
    content = _json(f"{name}Answer")
    if has_stream:
        content["text/event-stream"] = {"schema": _EVENT}
    headers = {
        "x-request-id": {"description": "The answer's `id`; feedback is given by it", "schema": _TEXT},
        "x-danlu-lens": {"description": "The immutable name of what answered", "schema": _TEXT},
        "x-danlu-ignored": {"description": "Fields that were sent and have no effect", "schema": _TEXT},
    }
    return {
        "operationId": operation,
        "security": [{"bearer": []}],
        "requestBody": {"required": True, "content": _json(f"{name}Request")},
        "responses": {"200": {"description": "The answer", "headers": headers, "content": content}} | _refusals(),
    }


def _get(operation: str, name: str) -> Schema:
    return {
        "operationId": operation,
        "security": [{"bearer": []}],
        "responses": {"200": {"description": "Found", "content": _json(name)}} | _refusals(),
    }


def _open(operation: str, text: str, also: dict[str, str] | None = None) -> Schema:
    status = {"type": "object", "required": ["status"], "properties": {"status": _TEXT}}
    content = {"application/json": {"schema": status}}
    also = also or {}
    told = {code: {"description": said, "content": content} for code, said in ({"200": text} | also).items()}
    return {"operationId": operation, "security": [], "responses": _refusals() | told}
