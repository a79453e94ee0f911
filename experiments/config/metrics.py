"""What the metrics of results mean: which are fractions, and of which less is better."""

__all__ = ["LOWER_IS_BETTER", "is_share", "lower_is_better"]

# Metric -> whether less of it is better; `None`: neither is, or it depends on what is asked.
LOWER_IS_BETTER: dict[str, bool | None] = {
    **dict.fromkeys(
        (
            # accuracies
            "test_accuracy",
            "test_accuracy_early",
            "test_final",
            "test_early",
            "validation_accuracy",
            "validation_final",
            "untrained_accuracy",
            "small_accuracy",
            # what pruning saves
            "sparsity",
            "effective_sparsity",
            "compression",
            "speedup",
            "small_faster",
            "file_ratio",
            "file_ratio_fixed_width",
        ),
        False,
    ),
    **dict.fromkeys(
        (
            # losses and errors
            "test_loss",
            "validation_loss",
            "predicted_loss",
            "perplexity",
            "log_perplexity",
            "held_out_error",
            "instability",
            # what training costs
            "early_step",
            "training",
            "seconds",
            "cpu_seconds",
            "wall_seconds",
            # what is left
            "cost_left",
            "kept",
            "flops",
            "small_parameters",
            "small_flops",
            "file_bytes",
        ),
        True,
    ),
    **dict.fromkeys(("explored", "largest_damping", "steps"), None),
}
# Fractions whose names do not say so: accuracies at the end and at early stop, what copies lose between them,
# weights that were ever alive.
_OTHER_SHARES = ("test_final", "test_early", "validation_final", "instability", "explored")


def is_share(metric: str) -> bool:
    """Returns whether a metric is a fraction, to be shown as a percentage.

    >>> is_share("test_accuracy"), is_share("perplexity")
    (True, False)
    """
    return "accuracy" in metric or "sparsity" in metric or metric in _OTHER_SHARES


def lower_is_better(metric: str) -> bool | None:
    """Returns whether less of a metric is better; `None` if that is not known.

    >>> lower_is_better("perplexity"), lower_is_better("test_accuracy"), lower_is_better("explored")
    (True, False, None)
    """
    return LOWER_IS_BETTER.get(metric)
