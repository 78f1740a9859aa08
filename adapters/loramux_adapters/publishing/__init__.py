"""Publishing an adapter on the Hugging Face Hub, with a model card and without any data."""
