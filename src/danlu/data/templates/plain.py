"""Plain text for base models that know no chat: a line per turn in words of neither language, EOS after answers."""

from __future__ import annotations

TEMPLATE = r"""{%- if bos_token is defined %}
    {{- bos_token }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- 'A: ' + message.content + eos_token + '\n' }}
    {%- elif message.role == 'user' %}
        {{- 'Q: ' + message.content + '\n' }}
    {%- else %}
        {{- message.content + '\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- 'A:' }}
{%- endif %}
"""
