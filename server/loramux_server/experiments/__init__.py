"""Experiments on live traffic: two variants of an adapter's answers, assigned at random, with a sequential verdict."""
