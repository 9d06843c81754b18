"""All that OpenAI's clients call: chats, completions, responses, and what is looked up."""

from .lookups import LOOKUPS
from .openai_chat import CHAT
from .openai_completions import COMPLETIONS
from .responses import RESPONSES

ENDPOINTS = (CHAT, COMPLETIONS, RESPONSES)

__all__ = ["ENDPOINTS", "LOOKUPS"]
