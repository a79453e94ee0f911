"""Reports of finished runs: tables, plots, claims and their verdicts."""
