"""The chat template and the tokenizer that are saved next to an adapter's weights."""
