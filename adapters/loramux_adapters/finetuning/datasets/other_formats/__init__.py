"""Training data in the formats of other vendors and libraries: recognized by its keys, and converted to OpenAI's."""
