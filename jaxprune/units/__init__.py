"""Units: what lives and dies together in one leaf or through several, and who competes with whom."""
