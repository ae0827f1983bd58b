"""The serving side: an OpenAI-shaped gateway with keys, limits, metering and audit before engines. No torch."""
