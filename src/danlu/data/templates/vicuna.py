"""Vicuna 1.1: USER: and ASSISTANT: as plain text, EOS after each answer."""

from __future__ import annotations

TEMPLATE = r"""{%- if bos_token is defined %}
    {{- bos_token }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {{- message.content | trim + ' ' }}
    {%- elif message.role == 'user' %}
        {{- 'USER: ' + message.content | trim + ' ' }}
    {%- elif message.role == 'assistant' %}
        {{- 'ASSISTANT: ' + message.content | trim + eos_token }}
    {%- else %}
        {{- raise_exception('the vicuna template has no role ' + message.role) }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- 'ASSISTANT:' }}
{%- endif %}
"""
