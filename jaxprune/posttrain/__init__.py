"""Pruning after training."""
