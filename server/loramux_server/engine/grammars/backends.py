"""Gives each request the structured-output backend that was chosen and checked for it.

vLLM's scheduler compiles every grammar with the backend of its first request, whichever later ones were checked with:
a schema that only guidance supports would be compiled by xgrammar, which ignores what it does not support. The module
of `scheduler_cls` imports this one, so it applies in the scheduler process.
"""

import copy
from typing import Any

from vllm.v1.structured_output import StructuredOutputManager

_grammar_init = StructuredOutputManager.grammar_init
_MANAGERS = "loramux_managers"


def grammar_init(self: Any, request: Any) -> None:
    """Compile the grammar of `request` by a manager of its backend, which shares all else with `self`."""
    if request.structured_output_request is None:
        return
    managers = self.__dict__.setdefault(_MANAGERS, {})
    name = request.sampling_params.structured_outputs._backend
    if name not in managers:
        managers[name] = copy.copy(self)
        managers[name].backend = None
    _grammar_init(managers[name], request)
    self.backend = self.backend or managers[name].backend  # allocates the bitmask, which is the same for all


StructuredOutputManager.grammar_init = grammar_init
