"""Checkpoints in eight bits as vLLM and SGLang read them: the format `compressed-tensors`.

`schemes.py` says what a number becomes, `write.py` writes a folder, `prove.py` holds transformers, which reads the
format through the package of that name, to what the folder should say.
"""
