"""The usage API: what each route did and cost."""
