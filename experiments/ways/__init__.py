"""How a network becomes sparse."""
