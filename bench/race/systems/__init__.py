"""The shelf of systems. Each file has one function `run(job, recorder)`: build the model on the device, call
`recorder.loaded(...)`, then train on the steps of `job.tokens()` and call `recorder.step(...)` after each update, until
it says False. Heavy imports stand at the top of the file: the child times them.
"""

from __future__ import annotations

SYSTEMS = {
    "danlu": "race.systems.danlu_trainer",
    "unsloth": "race.systems.unsloth_loop",
    "liger": "race.systems.peft_loop",
    "liger_compile": "race.systems.peft_loop",
    "transformers_peft": "race.systems.peft_loop",
    "trl": "race.systems.trl_trainer",
    "llama_factory": "race.systems.llama_factory",
}
