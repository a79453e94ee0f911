"""From masks to smaller arrays: what is left of each leaf, and the function on it."""
