"""Gemma 4's chat format in small: a tokenizer with its control tokens, and conversations of all kinds."""

import random
from pathlib import Path
from typing import Any

from mlx_gemma4_assist import Processor
from support.checkpoints import SPECIAL, WORDS, save_tokenizer

CONTROL = (
    *("<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>"),
    *("<|tool>", "<tool|>", '<|"|>', "<|think|>", "<|image|>", "<|audio|>", "<|video|>"),
)
# As much of Gemma 4's template as tells its form, in own words. "full" begins an answer with an empty thought.
_TEMPLATE = (
    "{{ bos_token }}{% set said = namespace(answered=false) %}{% set lead = messages[0].role == 'system' %}"
    "{% if enable_thinking or lead or tools %}{{ '<|turn>system\n' }}"
    "{% if enable_thinking %}{{ '<|think|>\n' }}{% endif %}"
    "{{ messages[0].content if lead }}{{ '<turn|>\n' }}{% endif %}"
    "{% for m in (messages[1:] if lead else messages) %}{% set said.answered = m.role == 'tool' %}"
    "{% if m.role == 'tool' %}{{ '<|tool_response>response:f{value:<|\"|>' + m.content + '<|\"|>}<tool_response|>' }}"
    "{% elif m.tool_calls %}{{ '<|turn>model\n<|tool_call>call:f{}<tool_call|>' }}"
    "{% else %}{{ '<|turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}"
    "{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for p in m.content %}{{ p.text or '<|' + p.type + '|>' }}{% endfor %}{% endif %}{{ '<turn|>\n' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt and said.answered %}{% if enable_thinking %}{{ '<|channel>thought\n' }}{% endif %}"
    "{% elif add_generation_prompt %}{{ '<|turn>model\n' }}"
    "FULL{% endif %}"
)
TEMPLATES = {
    "full": _TEMPLATE.replace("FULL", "{% if not enable_thinking %}{{ '<|channel>thought\n<channel|>' }}{% endif %}"),
    "compact": _TEMPLATE.replace("FULL", ""),
}
THINKS_AT_ONCE = _TEMPLATE.replace("FULL", "{% if enable_thinking %}{{ '<|channel>thought\n' }}{% endif %}")
"""A form whose prompts open the thought, so that even random weights think."""


def chat_processor(folder: Path, template: str | None = TEMPLATES["compact"]) -> Processor:
    """A byte-fallback BPE with Gemma 4's control tokens."""
    return Processor.from_pretrained(
        save_tokenizer(folder, template=template, special=(*SPECIAL, *CONTROL), words=WORDS)
    )


class Conversations:
    """Made-up conversations that Gemma 4's template renders right.

    Args:
        seed: of what is made up.
    """

    def __init__(self, seed: int):
        self._rng = random.Random(seed)

    def text(self) -> str:
        words = ("Hi", "there ", "\n", "é", "日本", "a < b", "{x: 1}", "'\"", " two  blanks ", "1.5", "🐈", "the wall")
        return "".join(self._rng.choice(words) for _ in range(self._rng.randrange(5)))

    def name(self) -> str:
        return self._rng.choice(("get_weather", "f", "mcp__server-one.read", "Zeta", "alpha"))

    def value(self, depth: int = 2) -> Any:
        plain = [self.text(), self._rng.randint(-9, 10**9), True, False, None, 0.1, 1e22, -2.5e-7]
        if depth and self._rng.random() < 0.3:
            return [self.value(depth - 1) for _ in range(self._rng.randrange(4))]
        if depth and self._rng.random() < 0.4:
            return self.arguments(depth - 1)
        return self._rng.choice(plain)

    def arguments(self, depth: int = 2) -> dict[str, Any]:
        keys = ("city", "Days", "a", "B", "with-hyphen", "with.dot", "with space", "$ref", "ключ")
        return {key: self.value(depth) for key in self._rng.sample(keys, self._rng.randrange(4))}

    def schema(self, depth: int = 2) -> dict[str, Any]:
        kind = self._rng.choice(("string", "integer", "number", "boolean", "array", "object", "STRING"))
        found: dict[str, Any] = {"type": kind}
        if self._rng.random() < 0.6:
            found["description"] = self.text()
        if self._rng.random() < 0.2:
            found["nullable"] = True
        if kind.lower() == "string" and self._rng.random() < 0.5:
            found["enum"] = ["x", "b c", ""]
        if kind == "array" and depth and self._rng.random() < 0.8:
            found["items"] = self.schema(depth - 1) | self._rng.choice(
                ({}, {"minLength": 3}, {"type": ["string", "null"]})
            )
        if kind == "object":  # without properties the template makes some of whatever else it has
            found |= self.parameters(depth - 1) if depth else {"properties": {}}
        return found | self._rng.choice(({}, {"default": 3, "pattern": "a.b"}))

    def parameters(self, depth: int = 2) -> dict[str, Any]:
        names = self._rng.sample(("city", "Days", "a", "type", "B", "x.y-z"), self._rng.randrange(4))
        found = {"type": "object", "properties": {name: self.schema(depth) for name in names}}
        return found | ({"required": names[:2]} if self._rng.random() < 0.6 else {})

    def tools(self) -> list[dict[str, Any]]:
        names = self._rng.sample(("get_weather", "f", "mcp__server-one.read"), self._rng.choice((0, 0, 1, 2)))
        made = []
        for name in names:
            function = {"name": name, "description": self.text()}
            if self._rng.random() < 0.8:
                function["parameters"] = self.parameters()
            made.append({"type": "function", "function": function})
        return made

    def content(self) -> str | list[dict[str, str]]:
        if self._rng.random() < 0.7:
            return self.text()
        kinds = ({"type": "text", "text": self.text()}, {"type": "image", "url": "p"}, {"type": "audio", "url": "s"})
        return [dict(self._rng.choice(kinds)) for _ in range(self._rng.randrange(1, 4))]

    def _answered(self) -> list[dict[str, Any]]:
        """An assistant's messages, perhaps with calls that are answered."""
        thought = {"reasoning_content": self.text()} if self._rng.random() < 0.4 else {}
        if self._rng.random() < 0.6:
            return [{"role": "assistant", "content": self.content(), **thought}]
        numbers = range(self._rng.randrange(1, 3))
        calls = [
            {"id": f"call_{i}", "type": "function", "function": {"name": self.name(), "arguments": self.arguments()}}
            for i in numbers
        ]
        answers = [{"role": "tool", "tool_call_id": f"call_{i}", "content": self.content()} for i in numbers]
        nothing = self._rng.choice((None, "", " \n"))
        return [{"role": "assistant", "content": nothing, "tool_calls": calls, **thought}, *answers]

    def messages(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        if self._rng.random() < 0.4:
            parts = [{"type": "text", "text": self.text()} for _ in range(self._rng.randrange(3))]
            role = self._rng.choice(("system", "developer"))
            found.append({"role": role, "content": self._rng.choice((self.text(), parts))})
        for _ in range(self._rng.randrange(1, 5)):
            kind = self._rng.choice(("user", "user", "assistant", "assistant", "system"))
            content = self.text() if kind == "system" else self.content()  # the template drops what the first one shows
            found += self._answered() if kind == "assistant" else [{"role": kind, "content": content}]
        return found

    def conversation(self) -> dict[str, Any]:
        """Arguments of ``Renderer.render``."""
        return {"messages": self.messages(), "tools": self.tools(), "thinking": self._rng.random() < 0.4}
