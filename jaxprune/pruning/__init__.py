"""From a method to masks: those a run starts from, those of the next step, pruning at once and on data."""
