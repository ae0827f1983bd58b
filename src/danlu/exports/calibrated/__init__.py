"""Four bits a weight, rounded on texts: the files that AutoAWQ and AutoGPTQ made common, for vLLM, SGLang and others.

The package `auto-round` finds the codes, in a process of its own. `schemes.py` says what a code stands for, `write.py`
writes a folder, `prove.py` holds its readers to our own decoding of it, and that to what was trained.
"""
