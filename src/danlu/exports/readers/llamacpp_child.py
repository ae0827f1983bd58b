"""llama.cpp's server in an interpreter of its own: a file that it cannot bear ends this one, not the export.

    python -m danlu.exports.readers.llamacpp_child MODEL.gguf CONTEXT THREADS [ADAPTER.gguf]

prints its address as soon as it answers and stays until its standard input is closed. On the loopback only.
"""

from __future__ import annotations

import sys


def main(model: str, context: str, threads: str, adapter: str = "") -> None:
    import xllamacpp  # optional: the extra `export`

    params = xllamacpp.CommonParams()
    params.model.path, params.hostnames, params.port = model, ["127.0.0.1"], 0
    params.n_ctx, params.n_parallel, params.n_gpu_layers = int(context), 1, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(threads)
    # the least that it can round: what differs is then the file
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.warmup, params.verbosity, params.use_jinja = False, 0, True
    params.cache_ram_mib, params.fit_params = 0, False
    if adapter:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(adapter, 1.0)]
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
