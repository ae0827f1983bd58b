"""Which engine answers: within each gateway worker, over the newest board, without waiting for anything.

A lens is chosen by the model's weights: smooth weighted round robin, so that after n requests each lens of a split has
had its share of them to within one. Then a replica that has this lens: the fewest outstanding answers, and among
equals the one that this lens always prefers (rendezvous hashing), so that an adapter and its prompts stay warm where
they are while there is little to do. A replica that failed several times running is left to the others for a while and
then tried with one request (circuit breaker); the last one is asked all the same. What the other workers have leased
is known from the line, as of a twentieth of a second ago.

`lease` before asking, `release` after the last byte. A lens is dropped from engines only when nothing is leased on it.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import orjson

from danlu.serving.ask import Ask
from danlu.serving.board import EMPTY, Board, Lens, Model, Replica
from danlu.serving.drivers import DRIVERS
from danlu.serving.drivers.driver import Can, Driver
from danlu.serving.journal import Outcome
from danlu.serving.keys import Key

NUM_FAILURES = 3
"""Running, until a replica is left alone."""
FIRST_PAUSE_S, MOST_PAUSE_S = 0.5, 30.0
"""How long: doubled with each try that fails."""
RETRY_S, MENDING_S = 2.0, 60.0
"""What clients are told to wait when nothing answers: engines are back within seconds, but for those that somebody has
to look at."""


class UnknownModelError(LookupError):
    """Nothing of this name is served."""


class NoReplicaError(RuntimeError):
    """It is served, and no engine can be asked now; worth another try after `retry_s`. `is_broken`: no engine that
    should have it is coming back by itself, or those that run were found not to answer as they should."""

    def __init__(self, model: str, retry_s: float, *, is_broken: bool = False) -> None:
        super().__init__(model)
        self.retry_s, self.is_broken = retry_s, is_broken


@dataclass(slots=True)
class Circuit:
    """What became of the last requests to one replica."""

    num_running: int = 0
    """Failures since the last success."""
    until: float = 0.0
    """Left alone until then (monotonic seconds)."""
    is_trying: bool = False
    """One request is out to see whether it is back."""

    def lets(self, now: float) -> bool:
        return self.num_running < NUM_FAILURES or (now >= self.until and not self.is_trying)

    def failed(self, now: float) -> None:
        self.num_running += 1
        self.is_trying = False
        over = self.num_running - NUM_FAILURES
        if over >= 0:
            self.until = now + min(MOST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(over, 16))

    def answered(self) -> None:
        self.num_running, self.is_trying = 0, False


@dataclass(slots=True)
class Lease:
    """The right to ask one engine once. `body` is ready to send; `lens` is what answers, for header and journal."""

    model: str
    lens: Lens
    replica: Replica
    body: bytes
    board: int
    _router: Router
    _is_trial: bool = False
    _is_open: bool = True

    @property
    def address(self) -> str:
        return self.replica.address

    @property
    def secret(self) -> str:
        return self.replica.secret

    @property
    def stops(self) -> bool:
        """Whether this engine ends an answer that it is told the id of, and says what it computed."""
        return self._router.driver(self.replica.driver).can.stops

    def release(self, outcome: Outcome) -> None:
        """`failed`: the engine did not answer as it should (no connection, cut off, its own 5xx); this is what opens
        the circuit. `aborted` and `refused` say nothing about the engine. A second call does nothing."""
        if self._is_open:
            self._is_open = False
            self._router.take_back(self, outcome)


@dataclass(slots=True)
class _Turn:
    """Smooth weighted round robin over a model's lenses."""

    lenses: tuple[tuple[str, float], ...]
    credits: list[float] = field(default_factory=list)

    def next(self) -> str:
        if len(self.lenses) == 1:
            return self.lenses[0][0]
        best = 0
        for n, (_, weight) in enumerate(self.lenses):
            self.credits[n] += weight
            if self.credits[n] > self.credits[best] + 1e-9:
                best = n
        self.credits[best] -= 1.0
        return self.lenses[best][0]


@dataclass(frozen=True, slots=True)
class _Option:
    """A replica that has a lens, and what it calls it."""

    replica: Replica
    engine_name: str
    driver: Driver


class Router:
    """One a worker. `clock` is monotonic."""

    def __init__(self, board: Board = EMPTY, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.on_lens: Counter[str] = Counter()
        """Leased now, by lens: the line tells the server, which waits for it before an adapter is dropped."""
        self.on_replica: Counter[str] = Counter()
        self.others: Mapping[str, int] = {}
        """The same of the other workers: the line tells."""
        self.num_leased: Counter[str] = Counter()
        """Since the start, by lens: which ones are in use, and which have been forgotten."""
        self.circuits: dict[str, Circuit] = {}
        self._drivers: dict[str, Driver] = {}
        self._turns: dict[str, _Turn] = {}
        self.board = EMPTY
        self.take(board)

    def take(self, board: Board) -> None:
        """From now on this board counts. Leases that are out stay as they are."""
        before = {replica.name: replica.state for replica in self.board.replicas}
        self.board = board
        self._lenses = {lens.name: lens for lens in board.lenses}
        self._models = {model.name: model for model in board.models}
        self._turns = {model.name: self._turn(model) for model in board.models}
        self._turns |= {name: _Turn(((name, 1.0),), [0.0]) for name in self._lenses if name not in self._turns}
        self._options = {name: self._options_of(name) for name in self._lenses}
        self.circuits = {replica.name: self._circuit(replica, before) for replica in board.replicas}
        self.num_leased = Counter({name: n for name, n in self.num_leased.items() if name in self._lenses})

    def models(self, key: Key) -> list[Model]:
        """What this key may ask, as `/v1/models` shows it: models, and immutable lenses where the key names them."""
        found = [model for model in self.board.models if key.may_use(model.name)]
        named = [lens for lens in self.board.lenses if lens.name in key.models and lens.name not in self._models]
        return found + [Model(lens.name, ((lens.name, 1.0),), 0) for lens in named]

    def knows(self, model: str) -> bool:
        return model in self._turns

    def lenses_of(self, model: str) -> tuple[Lens, ...]:
        """All that may answer when this is asked; empty where it is not known."""
        turn = self._turns.get(model)
        return () if turn is None else tuple(self._lenses[name] for name, _ in turn.lenses)

    def can(self, model: str) -> Can | None:
        """What every engine that may answer does; None where no engine is there now."""
        options = [option for lens in self.lenses_of(model) for option in self._options[lens.name]]
        return options[0].driver.can if options else None

    def lease(self, model: str, ask: Ask, exclude: Collection[str] = (), *, lens: str = "") -> Lease:
        """Choose lens and replica for one request. `exclude`: replicas (by name) that have just failed it; `lens`: the
        one of the lease before, so that a second try is answered by the version that the journal names (take the new
        lease before the old one is released). UnknownModelError, NoReplicaError."""
        turn = self._turns.get(model)
        if turn is None:
            raise UnknownModelError(model)
        chosen, option = self._choose(model, turn, exclude, lens)
        name, found = option.replica.name, self._lenses[chosen]
        said = found.chat_format.apply(ask.body) if ask.kind == "chat" else ask.body
        body = orjson.dumps(option.driver.address_body(said, option.engine_name))
        self.on_lens[chosen] += 1
        self.on_replica[name] += 1
        self.num_leased[chosen] += 1
        return Lease(model, found, option.replica, body, self.board.number, self, self._try(name))

    def take_back(self, lease: Lease, outcome: Outcome) -> None:
        """Of `Lease.release`."""
        for counter, name in ((self.on_lens, lease.lens.name), (self.on_replica, lease.replica.name)):
            counter[name] -= 1
            if not counter[name]:
                del counter[name]
        circuit = self.circuits.get(lease.replica.name)
        if circuit is None:  # gone with a board since
            return
        if outcome == "failed":
            circuit.failed(self.clock())
        elif outcome == "done":
            circuit.answered()
        elif lease._is_trial:
            circuit.is_trying = False  # it said nothing: the next one tries

    def _choose(self, model: str, turn: _Turn, exclude: Collection[str], lens: str) -> tuple[str, _Option]:
        """Of a split, a lens that nothing can answer for now leaves its share to the others."""
        chosen = lens if lens in self._options else turn.next()
        others = () if lens else (name for name, _ in turn.lenses if name != chosen)
        for name in (chosen, *others):
            if (option := self._option(name, exclude)) is not None:
                return name, option
        pools = {self._lenses[name].pool for name, _ in turn.lenses}
        states = {replica.state for replica in self.board.replicas if replica.pool in pools}
        is_broken = not exclude and "down" not in states
        raise NoReplicaError(model, MENDING_S if is_broken else RETRY_S, is_broken=is_broken)

    def _option(self, lens: str, exclude: Collection[str]) -> _Option | None:
        """The fewest outstanding of those that are well; where none is, of all that are there: a request that no engine
        can stand must not shut the door for everybody."""
        now, found = self.clock(), [option for option in self._options[lens] if option.replica.name not in exclude]
        well = [option for option in found if self.circuits[option.replica.name].lets(now)]
        others = self.others
        return min(
            well or found,
            key=lambda option: self.on_replica[option.replica.name] + others.get(option.replica.name, 0),
            default=None,
        )

    def _try(self, replica: str) -> bool:
        """Whether this request is the one that shows whether a replica is back."""
        circuit = self.circuits[replica]
        is_trial = circuit.num_running >= NUM_FAILURES and not circuit.is_trying
        circuit.is_trying = circuit.is_trying or is_trial
        return is_trial

    def _circuit(self, replica: Replica, before: Mapping[str, str]) -> Circuit:
        """What died and was started again begins anew."""
        is_back = replica.state == "ready" and before.get(replica.name) != "ready"
        return Circuit() if is_back else self.circuits.get(replica.name, Circuit())

    def _turn(self, model: Model) -> _Turn:
        standing = self._turns.get(model.name)
        if standing is not None and standing.lenses == model.lenses:
            return standing
        return _Turn(model.lenses, [0.0] * len(model.lenses))

    def _options_of(self, lens: str) -> list[_Option]:
        """Replicas that can answer, the preferred first."""
        options = [
            _Option(replica, engine_name, self.driver(replica.driver))
            for replica in self.board.replicas
            if replica.state == "ready"
            for name, engine_name in replica.lenses
            if name == lens
        ]
        return sorted(options, key=lambda option: _preference(lens, option.replica.name))

    def driver(self, name: str) -> Driver:
        if name not in self._drivers:
            self._drivers[name] = DRIVERS.load(name)()
        return self._drivers[name]


def _preference(lens: str, replica: str) -> bytes:
    """Rendezvous hashing: another order for each lens, and one replica more or less moves few of them."""
    return hashlib.blake2b(f"{lens}\0{replica}".encode(), digest_size=8).digest()
