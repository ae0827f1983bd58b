"""llama.cpp's server in an interpreter of its own: a file that it cannot bear ends this one, not the server.

    python -m danlu.serving.drivers.llamacpp_child SETTINGS.json

The secret is the first line of standard input; end of file there ends the process. Listens on a unix socket only, and
every door but /health wants the secret. No web page, no files of the machine, no router of models.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any


def main(path: str) -> None:
    import xllamacpp  # optional: the extra `export`

    settings: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    secret = sys.stdin.buffer.readline().decode().strip()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # people's words are no file to leave behind
    os.umask(0o077)
    Path(settings["socket"]).unlink(missing_ok=True)
    server = xllamacpp.Server(_params(xllamacpp, settings, secret))
    print("listening", server.listening_address, flush=True)
    while os.read(0, 4096):
        pass
    os._exit(0)  # its threads may be in the middle of an answer that nobody waits for


def _params(xllamacpp: Any, settings: dict[str, Any], secret: str) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path, params.hostnames, params.port = settings["model"], [settings["socket"]], 0
    params.api_keys = [secret]
    # what a slot may hold is n_ctx / n_parallel
    params.n_ctx, params.n_parallel = settings["context"] * settings["slots"], settings["slots"]
    params.n_gpu_layers = 999 if settings["gpu"] else 0
    for cpu in (params.cpuparams, params.cpuparams_batch):
        cpu.n_threads, cpu.poll = settings["threads"], 0  # polling burns the cores that others need
    params.use_jinja, params.warmup, params.verbosity = True, False, 0
    params.reasoning_format = xllamacpp.common_reasoning_format.COMMON_REASONING_FORMAT_NONE
    params.endpoint_metrics, params.endpoint_slots, params.endpoint_props, params.ui = True, False, False, False
    params.cache_ram_mib, params.fit_params, params.ctx_shift, params.cors_origins = 0, False, False, ""
    if settings["is_f32"]:  # as its proof computed it
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, 0.0) for path in settings["adapters"]]
    return params


if __name__ == "__main__":
    main(*sys.argv[1:])
