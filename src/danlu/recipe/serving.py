"""Chapter `serving`: where the API listens, what answers behind it, and how much a client may ask.

Keys, their limits and their models are no part of it: they change while it runs (`danlu keys`)."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from danlu.core.messages import say
from danlu.recipe.section import Section

ENGINE_NAME = r"^[a-z][a-z0-9_]{0,31}$"
EventName = Literal["run", "registry", "serving"]
RedactWhere = Literal["never", "urls", "always"]
MODEL_NAME = r"^[\w][\w.\-]{0,63}$"


def _complaint(key: str, **values: Any) -> PydanticCustomError:
    return PydanticCustomError("serving", "{expected}", {"expected": say(key, **values)})


class TLSSection(Section):
    cert: str | None = None
    """Certificate (PEM, with its chain). Empty: plain HTTP, for this machine alone or behind a proxy."""

    key: str | None = None
    """The certificate's private key (PEM), readable by its owner only."""

    @model_validator(mode="after")
    def _both(self) -> Self:
        if (self.cert is None) != (self.key is None):
            raise _complaint("serve.tls_both")
        return self


class CapsSection(Section):
    max_tokens: int = Field(4096, ge=1, le=1_000_000)
    """Longest answer that a request may ask for."""

    body_bytes: int = Field(4 * 2**20, ge=1024, le=2**30)
    """Largest request."""

    answer_s: float = Field(600.0, gt=0, le=86_400)
    """Longest time for one answer, from the first byte asked to the last byte sent."""

    waiting: int = Field(512, ge=1, le=100_000)
    """Most requests under way in one worker; more are told to come back."""

    drain_s: float = Field(30.0, ge=0, le=3600)
    """How long answers under way may go on when the server stops or reloads."""


class StoreSection(Section):
    kind: Literal["sqlite", "postgres"] = "sqlite"
    """Where keys and usage lie. sqlite: a file beside the runs; postgres: for several machines."""

    url_file: str | None = None
    """File that holds the database's URL with its password, readable by its owner only."""

    pepper_file: str | None = None
    """File that keys' hashes are peppered with; empty makes one beside the runs. Several machines share one."""

    @model_validator(mode="after")
    def _has_a_place(self) -> Self:
        if self.kind == "postgres" and self.url_file is None:
            raise _complaint("serve.needs_url", kind=self.kind)
        return self


class LimitsSection(Section):
    kind: Literal["local", "redis"] = "local"
    """Where requests and tokens are counted against keys' limits. local: a table that all workers of this machine
    share; redis: for several machines."""

    url_file: str | None = None
    """File that holds Redis' URL with its password, readable by its owner only."""

    @model_validator(mode="after")
    def _has_a_place(self) -> Self:
        if self.kind == "redis" and self.url_file is None:
            raise _complaint("serve.needs_url", kind=self.kind)
        return self


class RedactSection(Section):
    questions: RedactWhere = "never"
    """Personal data in questions is masked before an engine gets them: for no model, those behind a URL, or all."""

    answers: RedactWhere = "never"
    """Personal data in answers is masked before a client gets them; a stream is held back by up to a sentence."""


class ServedSection(Section):
    name: str | None = Field(None, pattern=MODEL_NAME)
    """What clients say in `model`; empty takes the artefact's own name."""

    target: str
    """An artefact's folder, a version of the registry (law@prod is followed, law:3 stays), or a URL that speaks
    OpenAI's protocol, such as http://127.0.0.1:11434/v1."""

    model: str | None = None
    """What the URL calls it; empty: the same name."""

    key_file: str | None = None
    """File that holds the URL's API key alone, readable by its owner only."""

    artifact: str | None = None
    """The artefact that stands behind the URL: it is held to its template and its canaries before it is served."""

    note: str | None = Field(None, min_length=1, max_length=1000)
    """Appended to each answer in words: finance, medical or legal (that it is no advice, in Chinese below a Chinese
    question, else in English), or a sentence of one's own. Empty appends nothing."""

    @property
    def is_url(self) -> bool:
        return self.target.startswith(("http://", "https://"))

    @model_validator(mode="after")
    def _fits_its_target(self) -> Self:
        if not self.is_url and (self.model or self.key_file or self.artifact):
            raise _complaint("serve.only_urls")
        if self.is_url and self.name is None:
            raise _complaint("serve.url_name")
        if self.note is not None and self.name is None:
            raise _complaint("serve.note_name")
        return self


class WebhookSection(Section):
    url: str = Field(pattern=r"^https?://")
    """Where events are posted to."""

    key_file: str
    """File that holds the secret that signs each event (HMAC-SHA256), readable by its owner only."""

    events: tuple[EventName, ...] = ("run", "registry", "serving")
    """What is told: acts of runs, deeds of the registry, engines and rollouts."""

    private: bool = False
    """The address may lie in a private network or on this machine."""


class ServingSection(Section):
    host: str = Field("127.0.0.1", min_length=1, max_length=255)
    """Address to listen on. Beyond this machine only with a key made and TLS, or `plain_http`."""

    port: int = Field(8000, ge=0, le=65_535)
    """Port to listen on; 0 takes any that is free."""

    plain_http: bool = False
    """Listen beyond this machine without TLS, because a proxy in front has it."""

    hosts: tuple[str, ...] = ()
    """Names that clients reach the server by (the Host header); empty takes `host` and this machine's own."""

    origins: tuple[str, ...] = ()
    """Web pages that may call it from a browser, such as https://intranet.example; empty: none."""

    workers: int = Field(1, ge=1, le=64)
    """Gateway processes on the one port."""

    engine: str = Field("auto", pattern=ENGINE_NAME)
    """What computes answers: native, llamacpp, vllm, sglang, upstream (a URL), or another package's driver by its name;
    auto chooses and says why."""

    program: str | None = None
    """The engine's own program or Python, where it has an environment of its own: /opt/vllm/bin/python."""

    replicas: int = Field(1, ge=1, le=64)
    """Engine processes for each base."""

    context: int | None = Field(None, ge=64, le=10_000_000)
    """Tokens of prompt and answer together; empty takes what the model was trained for."""

    slots: int | None = Field(None, ge=1, le=4096)
    """Answers that one engine computes at once; empty leaves it to the engine."""

    models: tuple[ServedSection, ...] = ()
    """What is served, when the command line names nothing."""

    allow_unverified: bool = False
    """Serve through an engine whose chat template could not be compared with training's."""

    tls: TLSSection = TLSSection()
    """Encryption."""

    caps: CapsSection = CapsSection()
    """What no key may pass."""

    store: StoreSection = StoreSection()
    """Keys and usage."""

    limits: LimitsSection = LimitsSection()
    """Who counts."""

    redact: RedactSection = RedactSection()
    """Masking of what is forwarded."""

    bodies: Literal["never", "masked"] = "never"
    """Whether questions and answers may be kept, for keys made with --keep-bodies; personal data in them is masked."""

    prices: dict[str, tuple[float, float]] = Field(default_factory=dict)
    """Money per million tokens of prompts and of answers, by model: {law: [0.5, 2.0]}; "*" is every other."""

    metrics_port: int = Field(9464, ge=0, le=65_535)
    """Port of Prometheus' figures; 0 shows none."""

    metrics_host: str = Field("127.0.0.1", min_length=1, max_length=255)
    """Address of Prometheus' figures. They need no key: beyond this machine only in a network of one's own."""

    traces: str | None = Field(None, pattern=r"^https?://")
    """Address of an OpenTelemetry collector (OTLP over HTTP); empty sends nothing."""

    webhooks: tuple[WebhookSection, ...] = ()
    """Who is told of events."""

    @field_validator("models", mode="before")
    @classmethod
    def _expand_short_forms(cls, given: Any) -> Any:
        """`[path, law@prod]` and `{law: path}`, made whole."""
        if isinstance(given, dict):
            given = [{"name": name, **_whole(value)} for name, value in given.items()]
        return [_whole(one) for one in given] if isinstance(given, list | tuple) else given

    @field_validator("prices")
    @classmethod
    def _no_negative_prices(cls, prices: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        if any(price < 0 for pair in prices.values() for price in pair):
            raise _complaint("serve.price")
        return prices


def _whole(value: Any) -> Any:
    return {"target": value} if isinstance(value, str) else value
