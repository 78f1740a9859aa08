"""Short chat templates of the forms that bases have, and byte-level tokenizers to use them with."""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINK_BLOCK = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.role == 'assistant' %}"
    "{% set thought, content = '', message.content %}"
    "{% if '</think>' in content %}"
    "{% set thought = content.split('</think>')[0].split('<think>')[-1].strip('\\n') %}"
    "{% set content = content.split('</think>')[-1].lstrip('\\n') %}{% endif %}"
    "{% if loop.last %}<think>\n{{ thought }}\n</think>\n\n{% endif %}{{ content.lstrip('\\n') }}"
    "{% else %}{{ message.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
"""Qwen3's form: an empty think block before the last answer, which the prompt does not have."""
OPEN_THINK = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'system' %}{{ message.content }}"
    "{% elif message.role == 'user' %}<|user|>{{ message.content }}"
    "{% else %}<|assistant|>{{ message.content.split('</think>')[-1] }}<|im_end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
)
"""DeepSeek-R1's form: the prompt ends with an open think block, which the whole conversation does not have."""
STRIPPING = (
    "{{ bos_token }}{% for message in messages %}<|{{ message.role }}|>\n{{ message.content | trim }}<|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
"""Llama 3's form: the template writes the BOS token, and strips the contents."""
BRACKETS = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}[INST] {{ message.content }} [/INST]"
    "{% elif message.role == 'assistant' %} {{ message.content }}{{ eos_token }}"
    "{% else %}{{ message.content }}\n{% endif %}{% endfor %}"
)
"""Mistral's form: no generation prompt, and a space before the answer that the prompt does not have."""
INDENTED = (
    "{% for message in messages %}{{ message.role }}: {{ message.content | indent(2) }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
PARTS = (
    "{% for message in messages %}<|{{ message.role }}|>"
    "{% for part in message.content %}{{ part.text }}{% endfor %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""The form of multimodal bases: contents are lists of parts."""
REFUSING = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% if tools %}{{ raise_exception('Tools are not supported') }}{% endif %}"
    "{% for message in messages %}{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "<|{{ message.role }}|>{{ message.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""Gemma 2's form: no system message, and roles that alternate."""
ENDLESS = (
    "{% for message in messages %}### {{ message.role }}:\n{{ message.content }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}### assistant:\n{% endif %}"
)
"""Alpaca's form: nothing that ends an answer."""
ALWAYS_PROMPTING = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|im_end|>{% endfor %}<|assistant|>"
)
"""A generation prompt after every conversation."""
DATED = "Today is {{ strftime_now('%d %b %Y') }}.\n" + CHATML

_CALL = (
    '<tool_call>\n{"name": {{ call.function.name | tojson }}, '
    '"arguments": {{ call.function.arguments | tojson }}}\n</tool_call>'
)
QWEN_TOOLS = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|im_end|>\n"
    "{% endif %}"
    "{% for message in messages %}{% if message.role == 'tool' %}"
    "<|im_start|>user\n<tool_response>\n{{ message.content }}\n</tool_response><|im_end|>\n{% else %}"
    "<|im_start|>{{ message.role }}{% if message.content %}{{ '\n' + message.content }}{% endif %}"
    "{% for call in message.tool_calls or [] %}{{ '\n' }}" + _CALL + "{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen2.5's form: a call follows the role without a line end of its own."""
THINKING_TOOLS = (
    "{% for tool in tools or [] %}{{ tool | tojson }}\n{% endfor %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}{{ message.content }}"
    "{% for call in message.tool_calls or [] %}" + _CALL + "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen3's form: an empty think block before the last answer, and before its calls."""
OPEN_THINK_TOOLS = (
    "{{ bos_token }}{% for tool in tools or [] %}{{ tool | tojson }}\n{% endfor %}"
    "{% for message in messages %}{% if message.role == 'assistant' %}<|assistant|>"
    "{% for call in message.tool_calls or [] %}" + _CALL + "{% endfor %}"
    "{% if message.content %}{{ message.content.split('</think>')[-1] }}{% endif %}<|im_end|>"
    "{% else %}<|user|>{{ message.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
)
"""DeepSeek-R1's form: the prompt opens a think block."""
BRACKET_TOOLS = (
    "{{ bos_token }}{% for tool in tools or [] %}{{ tool.function | tojson }}{% endfor %}"
    "{% for message in messages %}{% if message.role == 'assistant' %}"
    "{% if message.tool_calls %}[TOOL_CALLS] [{% for call in message.tool_calls %}{{ call.function | tojson }}"
    "{{ ', ' if not loop.last }}{% endfor %}]{{ eos_token }}{% else %} {{ message.content }}{{ eos_token }}{% endif %}"
    "{% elif message.role == 'tool' %}[TOOL_RESULTS] {{ message.content }} [/TOOL_RESULTS]"
    "{% else %}[INST] {{ message.content }} [/INST]{% endif %}{% endfor %}"
)
"""Mistral's form: no generation prompt, and a space before a text but not before calls."""
OWN_END_TOOLS = (
    "{% for tool in tools or [] %}{{ tool | tojson }}\n{% endfor %}"
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}"
    "{% for call in message.tool_calls or [] %}" + _CALL + "{% endfor %}"
    "{{ '<|user|>' if message.tool_calls else '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""Llama 3's form: calls end with a token of their own."""
TOOL_TEMPLATES = {
    "qwen": QWEN_TOOLS,
    "thinking": THINKING_TOOLS,
    "open think": OPEN_THINK_TOOLS,
    "brackets": BRACKET_TOOLS,
    "own end": OWN_END_TOOLS,
}
"""Templates that show tools, by name."""

TEMPLATES = {
    "chatml": CHATML,
    "think block": THINK_BLOCK,
    "open think": OPEN_THINK,
    "stripping": STRIPPING,
    "brackets": BRACKETS,
    "indented": INDENTED,
    "endless": ENDLESS,
    "always prompting": ALWAYS_PROMPTING,
    "dated": DATED,
}
"""Templates that take contents as strings, by name."""
SPECIAL_TOKENS = ("<s>", "<|im_end|>", "<|im_start|>", "<|user|>", "<|assistant|>", "<|system|>")
THINK_TOKENS = ("<think>", "</think>")
MERGES = [
    ("Ċ", "Ċ"),  # line ends
    ("Ġ", "a"),
    (":", "Ġ"),
    ("]", "a"),
    ("Ċ", "a"),
    (">", "a"),
]
"""Merges across the borders of prompts and answers; Ċ is a line end, Ġ a space."""


def write_tokenizer(folder: Path, chat_template: str | None) -> int:
    """Write a byte-level tokenizer to `folder`, which begins each text with a BOS token unless told otherwise.

    Returns the size of its vocabulary.
    """
    folder.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*SPECIAL_TOKENS, *THINK_TOKENS, *alphabet, *("".join(pair) for pair in MERGES)]
    tokenizer = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in THINK_TOKENS])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|system|>",
        "clean_up_tokenization_spaces": False,
    }
    if chat_template is not None:
        settings["chat_template"] = chat_template
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return len(words)
