"""What a card can do: memory, sustained rates, the way to the host. Known cards by name, this one, or a CPU.

Sources. Datasheets of the makers: dense tensor TFLOP/s with fp32 accumulation (no sparsity), memory bandwidth, board
power, compute capability. `memory_bytes` is what the driver leaves of the nominal size (`torch.cuda.mem_get_info`).
Sustained rates are what large products reach for seconds, and lie below the datasheet wherever power is the limit:
measured on H200 (150 products of 8192³ in a row); elsewhere a share of the datasheet, by the class of card and its
power (see `_RATIO`), until somebody measures.

Not here: AMD and Ascend. danlu's kernels are CUDA and Triton, and nothing was tried on those.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Literal

GB, GIB = 1e9, 2**30
TERA = 1e12


@dataclass(frozen=True, slots=True)
class Card:
    """One device. Rates are sustained, in FLOP/s and bytes/s; `datasheet_*` are the maker's."""

    name: str
    memory_bytes: int
    """Usable by one process that has the card for itself."""
    flops_16: float
    """bf16 (fp16 on cards without it) products with fp32 accumulation."""
    flops_8: float | None
    """fp8 rowwise products; None where the card or torch has none."""
    flops_32: float
    attention_flops: float
    """Causal attention forward and backward on long documents, counting only what the mask leaves."""
    bandwidth: float
    host_bandwidth: float
    """Pinned copies, each way."""
    num_units: int
    """Multiprocessors; small products leave some idle."""
    capability: tuple[int, int]
    """CUDA compute capability; (0, 0) is a CPU."""
    watts: float
    datasheet_flops_16: float
    is_measured: bool = False

    @property
    def kind(self) -> Literal["cuda", "cpu"]:
        return "cpu" if self.capability == (0, 0) else "cuda"

    @property
    def has_bf16(self) -> bool:
        """bf16 came with Ampere; V100 and T4 compute in fp16, with a scaled loss."""
        return self.capability >= (8, 0) or self.kind == "cpu"

    @property
    def has_fp8(self) -> bool:
        return self.flops_8 is not None

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name, "memory_bytes": self.memory_bytes, "bf16": self.has_bf16, "fp8": self.has_fp8,
            "capability": ".".join(map(str, self.capability)), "tflops_sustained": round(self.flops_16 / TERA, 1),
            "tflops_datasheet": round(self.datasheet_flops_16 / TERA, 1), "is_measured": self.is_measured,
            "bandwidth_gb_s": round(self.bandwidth / GB), "host_gb_s": round(self.host_bandwidth / GB),
            "watts": self.watts,
        }  # fmt: skip


# Sustained share of the datasheet's 16-bit rate. Hopper at 700 W: 707 of 989 measured. A100: about 255 of 312 is the
# field's usual figure. GeForce's datasheet rate is at boost clock with fp32 accumulation and is nearly reached. Cards
# of 70-150 W (T4, L4, A10) are held down by power: about half. V100 reaches about 95 of 125.
_RATIO = {"hopper": 0.715, "h20": 0.93, "ampere": 0.82, "geforce": 0.95, "low_power": 0.55, "ada": 0.75,
          "volta": 0.76, "turing": 0.4}  # fmt: skip
# Attention against products. Hopper: cuDNN reaches 505 TFLOP/s within a step against 707. Ampere and Ada: FA2.
# Before Ampere there are no flash kernels.
_ATTENTION = {"hopper": 0.71, "h20": 0.85, "ampere": 0.67, "geforce": 0.85, "low_power": 0.8, "ada": 0.7,
              "volta": 0.35, "turing": 0.35}  # fmt: skip
_COPY = 0.89
"""A device copy reaches 4.26 of 4.8 TB/s on H200; taken for all."""
_PINNED = {16: 55.0, 8: 27.0, 4: 12.5}
"""GB/s of a pinned copy over PCIe 5 (measured on H200), 4 and 3, sixteen lanes; half over eight."""

# name: nominal, usable GiB | class | 16-bit, fp8, fp32 datasheet TFLOP/s | GB/s | PCIe class | SMs | capability | watts
_TABLE = """
RTX 3060 12GB       12  11.6  geforce    25.5  -     12.7   360   8   28   8.6  170
RTX 3090            24  23.5  geforce    71.0  -     35.6   936   8   82   8.6  350
RTX 4060            8   7.7   geforce    30.2  60.5  15.1   272   4   24   8.9  115
RTX 4060 Ti 16GB    16  15.6  geforce    44.1  88.2  22.1   288   4   34   8.9  165
RTX 4070            12  11.6  geforce    58.3  117   29.1   504   8   46   8.9  200
RTX 4080            16  15.6  geforce    97.5  195   48.7   717   8   76   8.9  320
RTX 4090            24  23.5  geforce    165   330   82.6   1008  8   128  8.9  450
RTX 4090 48GB       48  47.4  geforce    165   330   82.6   1008  8   128  8.9  450
RTX 5080            16  15.5  geforce    113   -     56.3   960   16  84   12.0 360
RTX 5090            32  31.3  geforce    209   -     105    1792  16  170  12.0 575
RTX A6000           48  47.4  ampere     155   -     38.7   768   8   84   8.6  300
V100 16GB           16  15.8  volta      125   -     15.7   900   4   80   7.0  300
V100 32GB           32  31.7  volta      125   -     15.7   900   4   80   7.0  300
T4                  16  14.6  turing     65    -     8.1    320   4   40   7.5  70
A10                 24  22.1  low_power  125   -     31.2   600   8   72   8.6  150
L4                  24  22.0  low_power  121   242   30.3   300   8   58   8.9  72
L20                 48  44.5  h20        120   239   59.8   864   8   92   8.9  275
L40S                48  44.5  ada        362   733   91.6   864   8   142  8.9  350
A100 40GB           40  39.4  ampere     312   -     19.5   1555  8   108  8.0  400
A100 80GB           80  79.2  ampere     312   -     19.5   2039  8   108  8.0  400
H20                 96  95.1  h20        148   296   44.0   4000  16  78   9.0  400
H100 80GB           80  79.1  hopper     989   1979  66.9   3350  16  132  9.0  700
H200                141 139.8 hopper     989   1979  66.9   4800  16  132  9.0  700
"""
# RTX 50 (capability 12.0): the chip has fp8, but torch's rowwise fp8 product fails there; scales by tensor work.

_MEASURED: dict[str, dict[str, Any]] = {
    # One H200, torch 2.11, driver 580: products 707, fp8 rowwise with fast accumulation 1211-1524 by shape, cuDNN
    # causal attention 545 on 16k and 446 on 2k documents alone, a sixth less within a step, where products leave it
    # less power (505 is without what short documents cost); copies 4.26 TB/s, pinned copies 55 GB/s each way.
    "H200": {"flops_16": 707 * TERA, "flops_8": 1390 * TERA, "attention_flops": 505 * TERA, "bandwidth": 4260 * GB,
             "host_bandwidth": 55 * GB, "is_measured": True},
}  # fmt: skip


def _card(line: str) -> Card:
    name, rest = line[:20].strip(), line[20:].split()
    _, usable, kind, dense, eight, single, bandwidth, pcie, units, capability, watts = rest
    flops = float(dense) * TERA
    major, minor = capability.split(".")
    card = Card(
        name=name,
        memory_bytes=int(float(usable) * GIB),
        flops_16=flops * _RATIO[kind],
        flops_8=None if eight == "-" else float(eight) * TERA * _RATIO[kind] * 0.95,
        flops_32=float(single) * TERA * 0.85,
        attention_flops=flops * _RATIO[kind] * _ATTENTION[kind],
        bandwidth=float(bandwidth) * GB * _COPY,
        host_bandwidth=_PINNED[int(pcie)] * GB,
        num_units=int(units),
        capability=(int(major), int(minor)),
        watts=float(watts),
        datasheet_flops_16=flops,
    )
    return replace(card, **_MEASURED.get(name, {}))


CARDS: dict[str, Card] = {card.name: card for card in map(_card, _TABLE.strip().splitlines())}

_SAME_AS = {"a800": "A100 80GB", "h800": "H100 80GB", "gh200": "H200", "a100": "A100 80GB", "h100": "H100 80GB",
            "v100": "V100 32GB", "rtx 3060": "RTX 3060 12GB", "rtx 4060 ti": "RTX 4060 Ti 16GB",
            "a10g": "A10"}  # fmt: skip


def find_card(name: str) -> Card | None:
    """A card by name, written in any usual way: `4090`, `rtx-4090`, `NVIDIA A100-SXM4-80GB`, `a100 80gb`."""
    wanted = _words(name)
    exact = {_words(card): card for card in CARDS} | {_words(alias): card for alias, card in _SAME_AS.items()}
    if wanted in exact:
        return CARDS[exact[wanted]]
    inside = [known for known in exact if known <= wanted and not (wanted - known) & {"ti", "super"}]
    if inside:
        return CARDS[exact[max(inside, key=len)]]
    around = sorted({exact[known] for known in exact if wanted and wanted <= known})
    return CARDS[around[0]] if len(around) == 1 else None


def seen_card(name: str, memory_bytes: int, capability: tuple[int, int]) -> Card:
    """The card that a driver reports: a known one with its true memory, or a stranger that is taken for the known one
    of its generation with the nearest memory, and is not called measured."""
    known = find_card(name)
    if known is None:
        pool = [card for card in CARDS.values() if card.capability[0] == capability[0]] or list(CARDS.values())
        nearest = min(pool, key=lambda card: abs(card.memory_bytes - memory_bytes))
        known = replace(nearest, capability=capability, is_measured=False)
    return replace(known, name=name.removeprefix("NVIDIA ").removeprefix("GeForce "), memory_bytes=memory_bytes)


def cpu_card(*, num_cores: int, memory_bytes: int, has_bf16: bool) -> Card:
    """A CPU with AVX-512 (bf16 where it has it): 300 GFLOP/s a core in bf16 and 75 in fp32, measured on one thread of a
    Xeon without AMX with 0.5B shapes; where bf16 is emulated, fp32 is what is computed in. 10 GB/s a core up to 80."""
    single = num_cores * 75e9
    half = num_cores * 300e9 if has_bf16 else single
    bandwidth = min(80.0, 10.0 * num_cores) * GB
    return Card(
        name=f"CPU × {num_cores}", memory_bytes=memory_bytes, flops_16=half, flops_8=None, flops_32=single,
        attention_flops=half * 0.2, bandwidth=bandwidth, host_bandwidth=bandwidth, num_units=num_cores,
        capability=(0, 0), watts=15.0 * num_cores, datasheet_flops_16=half,
    )  # fmt: skip


def _words(name: str) -> frozenset[str]:
    text = name.lower().replace("nvidia", " ").replace("geforce", " ").replace("tesla", " ")
    text = re.sub(r"\b(\d+)\s*gb?\b", r"\1gb", text)
    words = re.findall(r"[a-z]*\d+gb|[a-z]*\d+[a-z]*|super|ti|[a-z]+", text)
    return frozenset(words) - _SAY_NOTHING


_SAY_NOTHING = frozenset(["rtx", "gtx", "sxm", "sxm2", "sxm4", "sxm5", "pcie", "hbm2", "hbm2e", "hbm3", "hbm3e", "d"])
