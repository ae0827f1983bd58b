"""Mistral instruct: [INST] around questions, EOS after each answer; the system prompt opens the first question."""

from __future__ import annotations

TEMPLATE = r"""{{- bos_token }}
{%- set first = namespace(system='') %}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {%- set first.system = message.content + '\n\n' %}
    {%- elif message.role == 'user' %}
        {{- '[INST] ' + first.system + message.content | trim + ' [/INST]' }}
        {%- set first.system = '' %}
    {%- elif message.role == 'assistant' %}
        {{- ' ' + message.content | trim + eos_token }}
    {%- else %}
        {{- raise_exception('the mistral template has no role ' + message.role) }}
    {%- endif %}
{%- endfor %}
"""
