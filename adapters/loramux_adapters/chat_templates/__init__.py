"""Chat templates that come with adapters: they are hostile input, so each is run in a limited process of its own."""
