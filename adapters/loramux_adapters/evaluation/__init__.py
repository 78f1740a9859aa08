"""At a job's end: is its adapter better than the base, also than the base with a good prompt?"""
