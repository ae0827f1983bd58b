"""Ollama: a Modelfile whose template renders, in Go, what the checkpoint's Jinja template renders.

`turns.py` learns from a template what stands around the words of each turn, `gotemplate.py` writes that down in Go's
language, `modelfile.py` adds the GGUF file, the system prompt, stop tokens and sampling.
"""
