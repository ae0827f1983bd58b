"""Every constant of the planner that was measured or guessed rather than derived, in one place, with its origin.

`bench/plan_check.py` runs configurations, writes predicted beside measured, and says which constant is off.
Sizes count bytes, times seconds, ratios are plain.
"""

from __future__ import annotations

# ---- memory

CONTEXT_BYTES = 620 * 2**20
"""What CUDA keeps of the card beside the allocator: context, loaded kernels. 0.5-0.7 GiB on H200 with torch 2.11."""
WORKSPACE_BYTES = 96 * 2**20
"""Product libraries' workspaces and small tensors inside the allocator (cuBLAS takes 32 MiB a stream on Hopper)."""
FRAGMENT_RATIO, FRAGMENT_MOST_BYTES = 0.04, 256 * 2**20
"""Reserved beyond allocated, with expandable segments: 0.14 of 3.4 GiB, 0.28 of 7.6, 0.08-0.34 of 14 to 62, 0.34-0.44
beside NF4. Without them more."""
RECORDED_BYTES = 128 * 2**20
"""What recording graphs adds: 32 MiB of cuBLAS workspace for each of two threads on two more streams."""
SPARE_RATIO = 0.03
"""Left free on purpose: a longer document, another backend's workspace."""
STEP_DOWN_RATIO = 0.06
"""By how much the next plan is to be leaner where memory has ended: more than a peak's error."""
PAD, CPU_PAD = 64, 16
"""Extra columns and rows of an augmented matrix are a multiple of this (leading dimensions that keep fast kernels)."""
LOGITS_CHUNK_BYTES, FRUGAL_LOGITS_BYTES = 1024 * 2**20, 256 * 2**20
LOGITS_MOST_ROWS = 4096
LOGITS_ROW_STEP = 128
CPU_LOGITS_BYTES = 8 * 2**20
"""How ops/cross_entropy.py cuts its chunks (a test holds these to it); on a GPU a logit's gradient takes its place."""
CPU_LOGIT_BYTES = 10.0
"""fp32 logits, fp32 softmax, gradient in the weights' dtype."""
WRITTEN_OUT_HIDDEN, WRITTEN_OUT_FFN = 17, 4
"""Hidden-sized and ffn-sized values that torch's own differentiation keeps of a token and layer."""
WRITTEN_OUT_16BIT_HIDDEN = 11
"""The same where weights that train are 16-bit, and the residual stream with them: no fp32 copies of autocast (a test
counts both)."""
FERRY_CHUNK, FERRY_BERTHS = 2**24, 3
"""Elements of offloaded state on the card at once, as training/ferry.py fetches them (a test holds them together)."""
CPU_CONTEXT_BYTES = 1000 * 2**20
"""Python, torch, its libraries and the data, resident: 1.25 GB with ember (bench/results/cpu-train.json)."""
MOMENT_8BIT_BYTES = 1 + 4 / 256
"""An 8-bit moment with one fp32 scale for 256 values."""
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""NF4 with double quantisation (Dettmers et al. 2023): 4-bit codes, an 8-bit scale for 64 values, fp32 for 256 of
those."""
HOST_MEMORY_RATIO = 1.0
"""Pinned memory a plan may ask for activations of a host that nobody looked at, in card memories."""
HOST_PINNED_RATIO = 0.75
"""Of a known host's memory that may be pinned."""
HOST_BUFFERS = 2
"""Layers whose host copy is under way: one leaves, one comes back."""

# ---- time

PRODUCT_DEPTH = 64
"""A product of depth K reaches K / (K + this) of the sustained rate: filling and emptying the pipeline."""
CPU_PRODUCT_DEPTH = 256
"""The same on a CPU."""
PRODUCT_TILE = 128 * 256
"""Outputs of one multiprocessor at a time; half a round of tiles is lost at the end."""
LOW_RANK_RATIO = 0.7
"""Share of bandwidth that rank-16 products reach: x Aᵀ 45 µs where one reading is 27 µs, 151 where it is 144 (H200)."""
SEPARATE_RANK_RATIO = 0.58
"""Share of bandwidth that low-rank products reach which are added to what the base's wrote (fp8): 58.6 ms of a step for
146 GB (H200, 7B, 16,384 tokens)."""
POINTWISE_RATIO = 0.9
"""Share of bandwidth that norms, rotations and gates reach."""
ATTENTION_TRAFFIC = 20.0
"""Passes over a query-sized tensor in attention forward and backward; what short documents cost beside the products.
cuDNN alone on H200, 16,384 tokens of 28 × 128: 0.83 ms at 128 tokens a document, 1.01 at 512, 1.89 at 2,048, 12.4 at
16,384; within a step 2.3 at 2,048, where the board's power is shared."""
ATTENTION_TILE = 128
"""Rows and keys that kernels take at once: the diagonal's tiles are computed whole."""
HEAD_DEPTH = 56
"""A head of size d reaches d / (d + this) of what endless ones would: softmax costs the same for each score. Heads of
64 reach 0.77 of those of 128 (1.42 ms a layer in a 0.5B step of 32,768 tokens)."""
RAGGED_RATIO, RAGGED_TRAFFIC = 0.65, 33.0
"""Hopper: documents of unequal length run in FlashAttention 2, at 328 TFLOP/s and 0.92 ms beside them (16,384 tokens of
28 × 128: 1.18 ms at 128 tokens a document, 3.5 at 2,048, 21.4 at 16,384). Older cards run it throughout."""
ATTENTION_FORWARD_RATIO = 0.23
"""Forward's share of attention's time (0.435 of 1.89 ms)."""
LOGIT_PASSES = 3.0
"""Readings and writings of the logits by the loss itself."""
QUANTISE_PASSES = 2.3
"""fp8: what codes cost where rows are made, in 16-bit readings of each product's input and gradient: norms, gates,
rotations and the one cast alone take 102 ms of a step, 57 without codes (H200, 7B, 16,384 tokens)."""
DEQUANT_BYTES, DEQUANT_RATIO = 2.55, 0.6
"""Read 4-bit codes and scales, write bf16: per weight and pass (int8 moves three); share of bandwidth reached: 17 ms of
a step for 43 GB (H200, 7B)."""
KERNELS_PER_LAYER = 80
"""Launches of one block, forward and backward, with everything kept: 1952 of 24 layers (0.5B, 2,048 tokens)."""
SMALL_KERNELS_PER_LAYER = 48
"""Of them those that do next to nothing, but not in no time: sums of low-rank parts, columns set to zero or copied,
pairs written anew after a step (profiles of 0.5B and 7B)."""
KERNELS_RECOMPUTED = {"all": 0, "light": 2, "input": 9}
LAUNCH_S = 60e-6
"""One eager launch from Python, Triton's and torch's averaged; hidden while the device has more to do. 120 ms (75 to
133) of a step whose kernels take 17 (0.5B, 2,048 tokens, beside an H200)."""
GRAPH_LAUNCH_S = 1.6e-6
"""The same replayed from a CUDA graph."""
GRAPH_WORTH = 2e13
"""Parameters times tokens at once below which training/graphs.py records a micro-batch (a test holds them together)."""
KERNEL_FLOOR_S = 2.5e-6
"""A kernel that does next to nothing still takes this."""
STEP_OVERHEAD_S = 1e-3
"""What a step waits beside its kernels: 17.9 ms of which kernels fill 16.8 (0.5B, 2,048 tokens, replayed)."""
HOST_LEAK_RATIO = 0.025
"""Share of a hidden host copy's time that is felt all the same (bandwidth shared with kernels): 273.4 ms where 270.5
need no copies of 64 ms each way (7B, 4,096 tokens)."""
HOST_DUPLEX_RATIO = 0.85
"""Of a link's bandwidth each way, where both ways are busy at once. A guess."""
CPU_LAUNCH_S = 4e-6
SEATS, SEATS_CPU, PACKED_MOST_BYTES = 256, 128, 2 * 2**30
"""Answers written at once, and the largest weights that are packed for it, as engines/ have them (a test holds them
together)."""
EXCHANGE_BANDWIDTH = 12e9
"""Bytes a second that cards pass around: half of what PCIe 4 has. A guess, low on purpose; NVLink has ten times as
much."""
EXCHANGE_S = 2e-3
"""Words said every step, and one card waiting for another. A guess."""
EXCHANGE_BYTES = 2**30
"""What NCCL holds on each of several cards. A guess, high on purpose."""
POWER_RATIO = 0.9
"""Mean power of a busy card, of its board's limit."""

# ---- data that nobody has looked at yet

SUPERVISED_RATIO = 0.4
"""Share of tokens learnt in conversations, where no dataset says better: answers are about as long as their prompts."""
BYTES_PER_TOKEN = 4.0
"""UTF-8 bytes a token, Chinese and English alike within a quarter."""
