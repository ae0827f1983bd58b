"""GGUF, the file format of llama.cpp and of what is built on it (Ollama, LM Studio): a model, its tokenizer and its
chat template in one file.

`architecture.py` says how llama.cpp calls a family and what it cannot compute, `vocabulary.py` how it reads text,
`tensors.py` what the weights become, `write.py` puts a file together, `lora.py` an adapter's. The container itself is
the package `gguf`, by llama.cpp's own authors.
"""
