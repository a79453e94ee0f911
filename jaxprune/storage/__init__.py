"""Files that are there whole or not at all, and are compared with their checksums when they are read."""
