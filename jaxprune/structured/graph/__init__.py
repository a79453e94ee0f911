"""The graph: which slices of parameters live and die together, found in a function's program."""
