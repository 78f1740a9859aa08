"""What an adapter brings along beside its weights for conversations: a chat template, and its training's tokenizer."""
