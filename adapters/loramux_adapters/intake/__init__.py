"""How adapter files come in: sources, validation, and the content-addressed store."""
