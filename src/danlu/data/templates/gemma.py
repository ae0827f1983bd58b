"""Gemma: <start_of_turn>, role (the assistant is called model), words, <end_of_turn>; system opens the first turn."""

from __future__ import annotations

TEMPLATE = r"""{{- bos_token }}
{%- set first = namespace(system='') %}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {%- set first.system = message.content | trim + '\n\n' %}
    {%- elif message.role in ['user', 'assistant'] %}
        {%- set role = 'model' if message.role == 'assistant' else 'user' %}
        {{- '<start_of_turn>' + role + '\n' + first.system + message.content | trim + '<end_of_turn>\n' }}
        {%- set first.system = '' %}
    {%- else %}
        {{- raise_exception('the gemma template has no role ' + message.role) }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<start_of_turn>model\n' }}
{%- endif %}
"""
