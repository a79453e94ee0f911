"""Data on the device, the compiled updates, and the loop around them."""
