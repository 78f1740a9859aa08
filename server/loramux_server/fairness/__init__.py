"""Fair admission: decides in which order runs are handed to the engine, and which are refused early.

The order is that of a virtual token counter ("Fairness in Serving Large Language Models", arXiv 2401.00588), in three
levels: live work before batches, between keys, and between the adapters of a key. See docs/guides/tenants.md.
"""
