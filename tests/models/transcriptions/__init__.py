"""The models in NumPy and float64, from their papers, with loops where they are clearer: logits, and all captured.

They take the fields of our model and its parameters `p`, and share none of its computations.
"""
