"""Making an adapter: data set, recipe, and a trainer in a process of its own."""
