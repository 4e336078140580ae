"""What follows from a recipe and a world size, as numbers: batches, rates, steps, memory; and what is
rejected.
"""
