"""What the binaries run, one study each."""
