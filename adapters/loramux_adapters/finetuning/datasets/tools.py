"""Tools in OpenAI's chat format, as training files and requests have them."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


class Function(BaseModel):
    """A function that the model may call; other keys, such as `strict`, are kept."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: Annotated[str, Field(min_length=1)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """A JSON schema."""


class ToolDefinition(BaseModel):
    """An entry of `tools`; other keys are kept."""

    model_config = ConfigDict(extra="allow", frozen=True)

    type: Literal["function"] = "function"
    function: Function

    def to_chat(self) -> dict[str, Any]:
        """Return the tool in OpenAI's form, with the keys that it was given."""
        return {"type": self.type} | self.model_dump(exclude_unset=True)


def _check_names(tools: Sequence[ToolDefinition]) -> Sequence[ToolDefinition]:
    names = [tool.function.name for tool in tools]
    if len(set(names)) < len(names):
        raise ValueError("two tools have the same name")
    return tools


Tools = Annotated[tuple[ToolDefinition, ...], AfterValidator(_check_names)]
