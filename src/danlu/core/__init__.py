"""The ground floor: errors, messages, files, registry, progress. Knows nothing of language models."""
