"""Attention over documents that lie end to end in one flat row, each seeing only itself; causal but for encoders'.

One meaning, many kernels: `reference_attention` (a loop a reader can check), `padded_attention` (the fast way on a CPU)
and what `choice` finds on CUDA: cuDNN, flash and compiled kernels, each in a file of its own behind the contract of
`kernel.Kernel`. `attention` chooses by measuring; `describe` tells what was chosen and why.
"""

from danlu.ops.attention.bidirectional import bidirectional_attention
from danlu.ops.attention.bounds import Bounds
from danlu.ops.attention.calls import Attended, attention, attention_backward, attention_forward
from danlu.ops.attention.choice import Choice, describe, forget, may_compile, news
from danlu.ops.attention.flash import varlen_attention
from danlu.ops.attention.padded import padded_attention
from danlu.ops.attention.reference import reference_attention

__all__ = [
    "Attended", "Bounds", "Choice", "attention", "attention_backward", "attention_forward", "bidirectional_attention",
    "describe", "forget", "may_compile", "news", "padded_attention", "reference_attention", "varlen_attention",
]  # fmt: skip
