"""ChatML: every turn stands between <|im_start|> and <|im_end|>. Qwen, Yi and many fine-tunes."""

from __future__ import annotations

TEMPLATE = r"""{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""
