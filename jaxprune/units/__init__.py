"""Units: weights that are removed together, in one leaf or in several, and which units compete."""
