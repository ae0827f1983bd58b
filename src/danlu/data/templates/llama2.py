"""Llama 2 chat: [INST] around questions, the system prompt inside the first, BOS and EOS around each exchange."""

from __future__ import annotations

TEMPLATE = r"""{%- set first = namespace(system='') %}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {%- set first.system = '<<SYS>>\n' + message.content + '\n<</SYS>>\n\n' %}
    {%- elif message.role == 'user' %}
        {{- bos_token + '[INST] ' + first.system + message.content | trim + ' [/INST]' }}
        {%- set first.system = '' %}
    {%- elif message.role == 'assistant' %}
        {{- ' ' + message.content | trim + ' ' + eos_token }}
    {%- else %}
        {{- raise_exception('the llama2 template has no role ' + message.role) }}
    {%- endif %}
{%- endfor %}
"""
