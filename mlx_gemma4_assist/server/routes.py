"""Every protocol that is served."""

from . import anthropic, lmstudio, ollama, openai

ENDPOINTS = (*openai.ENDPOINTS, *anthropic.ENDPOINTS, *ollama.ENDPOINTS, *lmstudio.ENDPOINTS)
LOOKUPS = (*openai.LOOKUPS, *anthropic.LOOKUPS, *ollama.LOOKUPS, *lmstudio.LOOKUPS)
