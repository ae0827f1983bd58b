"""Phi-3 and Phi-4-mini: <|role|>, words, <|end|>."""

from __future__ import annotations

TEMPLATE = r"""{%- for message in messages %}
    {{- '<|' + message.role + '|>\n' + message.content + '<|end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>\n' }}
{%- endif %}
"""
