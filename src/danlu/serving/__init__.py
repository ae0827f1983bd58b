"""The serving side: an OpenAI-shaped gateway with keys, limits, metering and audit before engine processes. No torch."""
