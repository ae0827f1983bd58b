"""Deployment files of a serving configuration: images, compose, Kubernetes, systemd, and what installs a bundle.

Texts come from `assets/deploy`; this says what stands in them and which of them a configuration needs. One machine with
engines of its own keeps keys in SQLite; before vLLM, and on Kubernetes, gateways are several and share Redis and
Postgres. Pure: a section in, texts out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml
from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from danlu.recipe.serving import ServingSection
from danlu.serving.drivers.vllm import allowed_rank
from danlu.version import VERSION

IMAGES = {  # pinned, so that what was reviewed is what runs; a newer one is a decision
    "vllm_image": "vllm/vllm-openai:v0.33.0",
    "redis_image": "redis:7.4-alpine",
    "postgres_image": "postgres:17-alpine",
    "prometheus_image": "prom/prometheus:v3.5.0",
}
REGISTRY = "danlu"
BASE_NAME = "base"
PREFIX = "/opt/danlu"
MODELS = "/models"
SECRETS = "/run/secrets"
ENGINE_KEY = f"{SECRETS}/engine-key"
GRACE_S = 15
"""Beyond the drain itself: until engines have ended."""
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Placed:
    """One model of a bundle. `folder` and `base` lie under `models/`; `base` is set for adapters only."""

    name: str
    folder: str
    kind: str
    base: str = ""
    rank: int = 0


@dataclass(frozen=True, slots=True)
class Deployment:
    """`extras` are danlu's, which the machine installs; `python` is the version that its wheels are for."""

    name: str
    models: tuple[Placed, ...]
    section: ServingSection
    extras: tuple[str, ...]
    python: str
    num_bytes: int = 0

    @property
    def has_vllm(self) -> bool:
        return self.section.engine == "vllm"

    @property
    def is_shared(self) -> bool:
        return self.has_vllm or self.section.store.kind == "postgres" or self.section.limits.kind == "redis"


def deployment_files(deployment: Deployment) -> dict[str, str]:
    """Every file by its path in the bundle."""
    facts = _facts(deployment)
    names = [name for name in _templates() if deployment.has_vllm or name not in ("kubernetes/vllm.yaml",)]
    files = {("install.sh" if name == "install.sh" else f"deploy/{name}"): _render(name, facts) for name in names}
    machine, container, cluster = _configurations(deployment)
    return files | {
        "deploy/serving.machine.yaml": machine,
        "deploy/serving.container.yaml": container,
        "deploy/kubernetes/serving.kubernetes.yaml": cluster,
        "deploy/prometheus-rules.yml": _asset("serving/rules.yaml"),
        "deploy/grafana-dashboard.json": _asset("serving/grafana.json"),
        ".dockerignore": "*\n!wheels\n!deploy\n",
    }


def _facts(deployment: Deployment) -> dict[str, Any]:
    section = deployment.section
    stores = [("redis", 6379), ("postgres", 5432)]
    return IMAGES | {
        "name": deployment.name,
        "version": VERSION,
        "image": REGISTRY,
        "python": deployment.python,
        "prefix": PREFIX,
        "port": section.port or 8000,
        "metrics_port": section.metrics_port or 9464,
        "grace_s": round(section.caps.drain_s) + GRACE_S,
        "extras": ",".join(deployment.extras),
        "has_vllm": deployment.has_vllm,
        "has_gpu": deployment.has_vllm,
        "is_shared": deployment.is_shared,
        "vllm_words": vllm_words(deployment.models, section) if deployment.has_vllm else [],
        "stores": ([("vllm", 8000)] if deployment.has_vllm else []) + stores,
        "secrets": ["pepper", "postgres-url", "redis-url"] + (["engine-key"] if deployment.has_vllm else []),
        "models_gib": max(1, round(1.5 * deployment.num_bytes / GIB)),
    }


def vllm_words(models: Sequence[Placed], section: ServingSection) -> list[str]:
    """What `vllm serve` is told where the gateway reaches it by name. vLLM serves one base, or one merged model."""
    first = models[0]
    words = [f"{MODELS}/{first.base or first.folder}", "--served-model-name", BASE_NAME if first.base else first.name]
    words += ["--host", "0.0.0.0", "--port", "8000", "--load-format", "safetensors"]  # noqa: S104 - a network of its own
    words += [
        "--disable-uvicorn-access-log",
        "--disable-fastapi-docs",
        "--generation-config",
        f"{MODELS}/{first.folder}",
    ]
    words += ["--tokenizer", f"{MODELS}/{first.folder}"] if first.base else []
    words += ["--max-model-len", str(section.context)] if section.context else []
    words += ["--max-num-seqs", str(section.slots)] if section.slots else []
    adapters = [model for model in models if model.base]
    if adapters:
        rank = allowed_rank(max(model.rank for model in adapters))
        words += ["--enable-lora", "--max-loras", str(max(2, len(adapters))), "--max-lora-rank", str(rank)]
        words += ["--lora-modules", *(f"{model.name}={MODELS}/{model.folder}" for model in adapters)]
    return words


def _configurations(deployment: Deployment) -> tuple[str, str, str]:
    """serving.yaml for a machine, for compose and for Kubernetes: the same wishes at other places."""
    own = deployment.section.model_dump(mode="json", exclude_defaults=True)
    here = {model.name: f"@PREFIX@/models/{model.folder}" for model in deployment.models}
    inside = own | {"host": "0.0.0.0", "plain_http": True, "metrics_host": "0.0.0.0", "tls": {}}  # noqa: S104 - a container's
    store = {"kind": "sqlite", "pepper_file": f"{SECRETS}/pepper"}
    postgres = {"kind": "postgres", "url_file": f"{SECRETS}/postgres-url", "pepper_file": f"{SECRETS}/pepper"}
    redis = {"kind": "redis", "url_file": f"{SECRETS}/redis-url"}
    inside |= {"models": _targets(deployment)}
    if deployment.has_vllm:
        inside["engine"] = "upstream"
    together = inside | {"store": postgres, "limits": redis}
    compose = together if deployment.is_shared else inside | {"store": store}
    heads = ("on a machine, once install.sh has filled in the place", "in compose", "on Kubernetes")
    bodies = (own | {"models": here}, compose, together)
    return _written(heads[0], bodies[0]), _written(heads[1], bodies[1]), _written(heads[2], bodies[2])


def _targets(deployment: Deployment) -> dict[str, Any]:
    if not deployment.has_vllm:
        return {model.name: f"{MODELS}/{model.folder}" for model in deployment.models}
    url = {"target": "http://vllm:8000/v1", "key_file": ENGINE_KEY}
    return {m.name: url | {"model": m.name, "artifact": f"{MODELS}/{m.folder}"} for m in deployment.models}


def _written(head: str, section: dict[str, Any]) -> str:
    body = yaml.safe_dump({"serving": section}, sort_keys=False, allow_unicode=True, width=110)
    return f"# What `danlu serve` reads {head}. Every key is told by `danlu explain serving.<key>`.\n{body}"


def _render(name: str, facts: dict[str, Any]) -> str:
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False
    )
    return environment.from_string(_asset(f"deploy/{name}.j2")).render(facts)


def _templates() -> list[str]:
    root = resources.files("danlu.assets") / "deploy"
    found = [path.name for path in root.iterdir() if path.is_file()]
    found += [f"{folder}/{path.name}" for folder in ("docker", "kubernetes") for path in (root / folder).iterdir()]
    return sorted(name.removesuffix(".j2") for name in found if name.endswith(".j2"))


def _asset(name: str) -> str:
    return (resources.files("danlu.assets") / name).read_text(encoding="utf-8")
