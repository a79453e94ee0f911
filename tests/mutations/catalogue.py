"""Invariants, each broken on purpose: which file, what is written there, what instead, and who must notice.

Every `old` occurs exactly once in its file, which a test in `make test` checks: where the code moves on, the
entry must follow. The tests named are the narrowest that turn red.
"""

from typing import NamedTuple

__all__ = ["MUTATIONS", "Mutation"]


class Mutation(NamedTuple):
    """One invariant that is broken.

    Attributes:
      name: what is wrong then.
      file: in which it is broken.
      old: the text that holds it.
      new: the text that breaks it.
      tests: of pytest, of which at least one must fail.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


_CHECKPOINT = "experiments/runs/checkpoint.py"
_ENGINE = "experiments/training/loop.py"
_FOLDER = "experiments/runs/folder.py"
_TORCH = "jaxprune/data/torch_weights.py"
_STATE = "jaxprune/transforms/masked_step.py"
_TICKET = "jaxprune/lottery/ticket.py"
_LAND = "tests/transforms/test_sparsify.py::test_narrow_updates_land_on_zero_too"
_MASKED_STATE = "tests/transforms/test_masked_state.py::"
_SEARCH = (
    "tests/transforms/test_line_search.py::"
    "test_no_update_is_handed_a_loss_or_gradient_of_other_parameters"
)
_STALE = "tests/transforms/test_optimizers.py::test_optimizers_keep_zeros_and_forget"

STORED = (
    Mutation(
        "tensors may be larger than the file",
        _TORCH,
        "if self.left < 0:",
        "if False:",
        ("tests/faults/test_strangers.py::test_weights_of_other_people",),
    ),
    Mutation(
        "a pickle may name anything",
        _TORCH,
        "if name not in KNOWN:",
        "if False:",
        ("tests/data/test_torch_weights.py",),
    ),
    Mutation(
        "compressed parts of a checkpoint unpack (zip bomb)",
        _TORCH,
        "if member.compress_type != zipfile.ZIP_STORED:",
        "if False:",
        ("tests/data/test_torch_weights.py",),
    ),
    Mutation(
        "tensors may reach beyond their storage",
        _TORCH,
        "if end_index > storage.size:",
        "if False:",
        ("tests/data/test_torch_weights.py",),
    ),
    Mutation(
        "the arrays' cache is not compared",
        "jaxprune/storage/array_files.py",
        "if sealed.checksum(array) != checksum:",
        "if False:",
        ("tests/storage/test_array_files.py::test_arrays_that_were_exchanged_are_noticed",),
    ),
    Mutation(
        "archives are accepted with any checksum",
        "jaxprune/data/sources.py",
        "if (actual_sha256 := sha256_of(path)) != archive.sha256:",
        "if (actual_sha256 := sha256_of(path)) == '':",
        ("tests/data/test_sources.py::test_a_damaged_archive_is_refused",),
    ),
    Mutation(
        "a mask file is read whatever its checksum",
        "jaxprune/masks/files.py",
        'or metadata.get("sha256") != _checksum(shapes_text, bits):',
        "or False:",
        ("tests/test_mask_files.py::test_every_damaged_byte_is_found",),
    ),
    Mutation(
        "a mask file of a later version is read",
        "jaxprune/masks/files.py",
        'if metadata.get("version") != _VERSION:',
        "if False:",
        ("tests/test_mask_files.py::test_other_files_are_refused",),
    ),
    Mutation(
        "a plan with impossible indices loads",
        "jaxprune/structured/shrinking/plan.py",
        "return are_inside and all(a < b for a, b in itertools.pairwise(indices))",
        "return True",
        ("tests/structured/test_plan.py::test_changed_plans_are_refused",),
    ),
    Mutation(
        "a plan of other shapes loads",
        "jaxprune/structured/shrinking/plan.py",
        'if content.get("hash") != plan.hash:',
        "if False:",
        ("tests/structured/test_plan.py::test_changed_plans_are_refused",),
    ),
)

RUNS = (
    Mutation(
        "a future format is read",
        _CHECKPOINT,
        'if manifest["format"] != _FORMAT:',
        "if False:",
        ("tests/experiments/runs/test_checkpoint.py",),
    ),
    Mutation(
        "files of a checkpoint are not compared",
        _CHECKPOINT,
        "        _check_seal(self.folder / str(step))\n",
        "",
        ("tests/experiments/runs/test_checkpoint.py::test_a_flipped_bit_is_found",),
    ),
    Mutation(
        "leaves of a checkpoint are not compared",
        _CHECKPOINT,
        "if sealed.checksum(array) != checksum:",
        "if False:",
        (
            "tests/experiments/runs/test_checkpoint.py::"
            "test_the_checksums_of_leaves_find_what_orbax_reads_without_a_word",
        ),
    ),
    Mutation(
        "the manifest is not compared",
        _CHECKPOINT,
        'if sealed.digest(stored_manifest["text"].encode()) != stored_manifest["checksum"]:',
        "if False:",
        ("tests/experiments/runs/test_checkpoint.py::test_a_flipped_bit_is_found",),
    ),
    Mutation(
        "dtype and shape of a template are not compared",
        _CHECKPOINT,
        "if path in stored and stored[path] != expected[path]",
        "if False",
        (
            "tests/experiments/runs/test_checkpoint.py::test_a_template_that_does_not_fit_is_told_leaf_by_leaf",
        ),
    ),
    Mutation(
        "early stop may take a denser network",
        _ENGINE,
        "self._validate(next_step, next_step >= level.settled)",
        "self._validate(next_step, True)",
        ("tests/experiments/training/test_levels.py::test_the_early_stop_takes_no_denser_network",),
    ),
    Mutation(
        "early stop forgets its best across a resume",
        _ENGINE,
        "math.inf if loss is None else loss, *step_and_count, *variables",
        "math.inf, 0, 0, *variables",
        ("tests/experiments/training/test_levels.py::test_the_best_evaluation_outlives_a_kill",),
    ),
    Mutation(
        "rows after the restored step stay",
        _ENGINE,
        "after=self.updates_done or -1,",
        "after=10**9,",
        (
            "tests/experiments/training/test_levels.py::test_rows_after_the_restored_step_are_written_again",
        ),
    ),
    Mutation(
        "a loss that is not finite goes on",
        _ENGINE,
        "if not math.isfinite(loss_sum):",
        "if False:",
        ("tests/experiments/training/test_loop.py::test_a_loss_that_is_not_finite_stops_the_run",),
    ),
    Mutation(
        "other variables do not rewind",
        _ENGINE,
        "self.marked_rest if level.rewinds else self.state.rest",
        "self.state.rest",
        ("tests/experiments/training/test_loop.py::test_statistics_rewind_with_the_weights",),
    ),
    Mutation(
        "two processes may work in one folder",
        "experiments/runs/lock.py",
        "        lock.acquire()\n",
        "        pass\n",
        ("tests/experiments/runs/test_folder.py::test_a_second_process_is_refused",),
    ),
    Mutation(
        "an edited config is accepted",
        "experiments/runs/config_file.py",
        "    if differing := differences(stored, settings):\n",
        "    if differing := '':\n",
        (
            "tests/experiments/runs/test_folder.py::"
            "test_a_folder_with_other_settings_is_refused_by_name_of_the_field",
        ),
    ),
    Mutation(
        "the first signal stops at once",
        "experiments/runs/options.py",
        "signal.signal(signal_number, self._record_signal)",
        "signal.signal(signal_number, signal.SIG_DFL)",
        ("tests/experiments/test_cli.py::test_the_first_signal_lets_the_run_save",),
    ),
    Mutation(
        "the second signal is ignored",
        "experiments/runs/options.py",
        "signal.signal(handled_number, signal.SIG_DFL)",
        "signal.signal(handled_number, signal.SIG_IGN)",
        ("tests/experiments/test_cli.py::test_the_second_signal_ends_it_at_once",),
    ),
    Mutation(
        "JSON is written in place",
        "jaxprune/storage/durable.py",
        "partial_path.replace(path)",
        "path.write_bytes(partial_path.read_bytes())",
        ("tests/experiments/runs/test_folder.py::test_json_is_replaced_whole_or_not_at_all",),
    ),
)

_SELECTION = "tests/selection/test_exact.py::"
SELECTION = (
    Mutation(
        "-0.0 ranks below 0.0",
        "jaxprune/selection/ranks.py",
        "key = lax.select(bits < 0, -magnitude, magnitude)",
        "key = lax.select(bits < 0, -magnitude - 1, magnitude)",
        (_SELECTION + "test_order_key_orders_and_separates",),
    ),
    Mutation(
        "NaN ranks above everything",
        "jaxprune/selection/ranks.py",
        "lax.full_like(key, LOWEST)",
        "lax.full_like(key, 2**31 - 1)",
        (_SELECTION + "test_order_key_orders_and_separates",),
    ),
    Mutation(
        "denormals are zero",
        "jaxprune/selection/ranks.py",
        "magnitude = bits & 0x7FFFFFFF",
        "magnitude = jnp.where(bits & 0x7F800000, bits & 0x7FFFFFFF, 0)",
        (_SELECTION + "test_order_key_orders_and_separates",),
    ),
    Mutation(
        "ties go to the higher index (short contests)",
        "jaxprune/selection/ranks.py",
        "(rival + (positions > i) > keys)",
        "(rival + (positions < i) > keys)",
        (
            "tests/patterns/test_patterns.py::test_two_of_four",
            _SELECTION + "test_top_along_is_a_stable_sort_of_each_slice",
        ),
    ),
    Mutation(
        "ties go to the higher index (long contests)",
        "jaxprune/selection/counting.py",
        "positions > cut.last",
        "positions < cut.last",
        (
            _SELECTION + "test_nothing_to_choose_from",
            _SELECTION + "test_what_is_found_does_not_move",
        ),
    ),
    Mutation(
        "what is found moves while other contests go on",
        "jaxprune/selection/counting.py",
        "jnp.where(settled, old, new)",
        "new",
        (_SELECTION + "test_what_is_found_does_not_move",),
    ),
    Mutation(
        "what may not be marked is marked",
        "jaxprune/selection/exact.py",
        "return tuple(mask if allowed is None else mask & allowed for mask, allowed in pairs)",
        "return masks",
        ("tests/selection/test_exact.py::test_no_more_are_marked_than_may_be",),
    ),
    Mutation(
        "more scores than int32 counts are taken",
        "jaxprune/selection/exact.py",
        "if total >= 2**31:",
        "if False:",
        (_SELECTION + "test_too_many_scores_are_refused",),
    ),
    Mutation(
        "survivors rounds down what is removed",
        "jaxprune/allocation/counts.py",
        "return _exact_rest(n, sparsity, _UNIT // 2)",
        "return _exact_rest(n, sparsity, 0)",
        ("tests/test_allocation.py::test_counts_are_exact_integers",),
    ),
    Mutation(
        "survivors is counted in float32",
        "jaxprune/allocation/counts.py",
        "return units - (removed + _divide(cross_rest * 10_000 + n_low * share_low + rounding, _UNIT)[0])",
        "return jnp.round(units * (1 - jnp.float32(sparsity))).astype(jnp.int32)",
        ("tests/test_allocation.py::test_counts_are_exact_integers",),
    ),
    Mutation(
        "a floor is not paid for",
        "jaxprune/allocation/counts.py",
        "return jnp.maximum(counts, floors) - jnp.maximum(excess - cut_level, 0) - loses_one",
        "return jnp.maximum(counts, floors)",
        (
            "tests/test_allocation.py::test_uniform_plus_spares_the_first_and_caps_the_last",
            "jaxprune/allocation/counts.py",
        ),
    ),
    Mutation(
        "remainders are not dealt out",
        "jaxprune/allocation/counts.py",
        "return counts + jnp.where(jnp.arange(len(sizes)) == jnp.argmax(room), missing, 0)",
        "return floor",
        (
            "tests/test_allocation.py::test_erk_caps_thin_leaves_and_shares_out_the_rest",
            "tests/test_allocation.py::test_by_path_leaves_others_dense_and_respects_the_whole",
        ),
    ),
    Mutation(
        "a uniform layer may be emptied by rounding",
        "jaxprune/allocation/by_leaf.py",
        "count, jnp.minimum(-(-floor // leaf_units.contests), leaf_units.budgeted)",
        "count, count",
        ("tests/faults/test_mutants.py::test_no_layer_is_emptied_by_rounding",),
    ),
    Mutation(
        "lamp divides by what is smaller",
        "jaxprune/allocation/by_score.py",
        "tail_sums = jnp.cumsum(ascending[::-1] ** 2)[::-1]",
        "tail_sums = jnp.cumsum(ascending**2)",
        ("tests/test_allocation.py::test_lamp_by_hand",),
    ),
    Mutation(
        "the knapsack spends more than its budget",
        "jaxprune/allocation/knapsack.py",
        "-np.inf, _SCALE),",
        "-np.inf, 1.1 * _SCALE),",
        ("tests/test_allocation.py::test_the_knapsack_is_the_best_there_is",),
    ),
    Mutation(
        "groups run along the outputs",
        "jaxprune/patterns/leafwise.py",
        "return resolve_axes(shape, kernel).in_axis if axis is None else (axis % len(shape),)",
        "return resolve_axes(shape, kernel).out_axis if axis is None else (axis % len(shape),)",
        (
            "tests/patterns/test_patterns.py::test_groups_run_along_the_reduction_axis",
            "tests/patterns/test_patterns.py::test_two_of_four",
        ),
    ),
    Mutation(
        "no change at `end` off the grid",
        "jaxprune/schedules/grid.py",
        "(((step - begin) % every == 0) | (step == end))",
        "((step - begin) % every == 0)",
        ("tests/test_schedules.py::test_a_schedule_lands_on_its_target_at_its_end",),
    ),
    Mutation(
        "the grid starts at 0",
        "jaxprune/schedules/grid.py",
        "return (step >= begin) & (step <= end) & (((step - begin)",
        "return (step >= begin) & (step <= end) & (((step)",
        ("tests/test_schedules.py::test_the_grid_starts_at_begin",),
    ),
    Mutation(
        "polynomials start at their target",
        "jaxprune/schedules/rising.py",
        "return sparsity + (initial - sparsity) * (1 - progress_at(step, begin, end)) ** power",
        "return sparsity + (initial - sparsity) * (progress_at(step, begin, end)) ** power",
        ("tests/test_schedules.py::test_cubic_is_zhu_and_gupta",),
    ),
    Mutation(
        "dead weights may come back in prune",
        "jaxprune/updates/within_layers.py",
        "return [mask & best for mask, best in zip(alive, best_units(units, keep), strict=True)]\n\n"
        "    return Update(select)",
        "return best_units(units, keep)\n\n    return Update(select, ranks_dead_units=True)",
        (
            "tests/test_updates.py::test_prune_never_revives",
            "tests/test_method.py::test_of_remaining_removes_a_share_of_what_is_left",
            "tests/faults/test_mutants.py::test_prune_does_not_revive",
        ),
    ),
    Mutation(
        "weights that were dead in a living unit come back",
        "jaxprune/pruning/by_method.py",
        "if not update.ranks_dead_units and update.grow_criterion is None:",
        "if False:",
        (
            "tests/transforms/test_sparsify.py::test_weights_that_are_dead_at_the_start_stay_so_within_a_living_unit",
        ),
    ),
    Mutation(
        "NaN is an order",
        "jaxprune/pruning/missing_scores.py",
        "    if not missing_scores:",
        "    if True:",
        ("tests/test_method.py::test_nan_is_no_order_and_infinity_is_one",),
    ),
    Mutation(
        "regrowth loses the places of what it drops",
        "jaxprune/updates/selecting.py",
        "return [old | new for old, new in zip(staying, grown, strict=True)]",
        "return staying",
        ("tests/test_updates.py::test_regrow_fills_up_when_too_few_are_alive",),
    ),
    Mutation(
        "the last unit of a group may go",
        "jaxprune/units/contests.py",
        "return alive | (~alive.any() & best)",
        "return alive",
        ("tests/structured/test_coupled.py::test_a_group_keeps_one_unit_whatever_is_asked",),
    ),
)

_ALIKE = "tests/trees/test_alike.py::"
MASKS = (
    Mutation(
        "masks are broadcast",
        "jaxprune/masks/fitting.py",
        "    if mask_shape != leaf_shape:\n",
        "    if False:\n",
        (_ALIKE + "test_no_mask_is_broadcast",),
    ),
    Mutation(
        "masks need not be bool",
        "jaxprune/masks/fitting.py",
        "return None if mask.dtype == bool else",
        "return None if True else",
        (_ALIKE + "test_masks_must_be_bool",),
    ),
    Mutation(
        "NaN stays off the masks where they are applied",
        "jaxprune/masks/fitting.py",
        "jnp.where(dense(mask), new, jnp.asarray(old, new.dtype))",
        "jnp.where(dense(mask), new, new * jnp.asarray(old, new.dtype))",
        ("tests/test_masks.py::test_apply_gives_exact_zeros_even_off_nans",),
    ),
    Mutation(
        "a leak is not found",
        "jaxprune/masks/fitting.py",
        "    if not leaks:\n",
        "    if True:\n",
        ("tests/test_masks.py::test_check_finds_a_weight_that_came_back",),
    ),
    Mutation(
        "masks of different leaves are compared",
        "jaxprune/masks/comparing.py",
        "    if set(a_by_path) != set(b_by_path):\n",
        "    if False:\n",
        (_ALIKE + "test_masks_of_different_leaves_are_not_compared",),
    ),
    Mutation(
        "packed rows lose their last byte",
        "jaxprune/masks/packing.py",
        "(byte_of_weight << bit_index) & 128 != 0",
        "(byte_of_weight << bit_index) & 64 != 0",
        ("tests/test_masks.py::test_packed_masks_are_the_masks",),
    ),
    Mutation(
        "a word of the key is left out of the draws",
        "jaxprune/selection/draws.py",
        "left = left + words[(group + 1) % 3]",
        "left = left + words[group % 3]",
        ("tests/selection/test_draws.py::test_a_number_is_a_function_of_its_position",),
    ),
    Mutation(
        "means of survivors are summed in their own type",
        "jaxprune/selection/mask_counts.py",
        "wide_type = jnp.promote_types(values.dtype, jnp.float32)",
        "wide_type = values.dtype",
        ("tests/selection/test_mask_counts.py::test_the_mean_of_what_is_marked",),
    ),
    Mutation(
        "outputs that are summed over are followed on",
        "jaxprune/programs/views.py",
        "return any(digit.axis != REPEATED for axis in axes for digit in self.axes[axis])",
        "return True",
        ("tests/posttrain/test_driver.py::test_a_plan_grows_with_layers_not_with_their_square",),
    ),
    Mutation(
        "shuffling mixes layers",
        "jaxprune/masks/comparing.py",
        "shuffled_rows = jax.random.permutation(leaf_key, rows, axis=1, independent=True)",
        "shuffled_rows = jax.random.permutation(leaf_key, rows.ravel()).reshape(rows.shape)",
        ("tests/test_masks.py::test_shuffling_stays_within_a_layer",),
    ),
    Mutation(
        "integers are pruned",
        "jaxprune/masks/making.py",
        "fit = jnp.issubdtype(jnp.result_type(leaf), jnp.floating) and 0 not in jnp.shape(leaf)",
        "fit = 0 not in jnp.shape(leaf)",
        (
            "tests/test_masks.py::test_only_floating_matrices_are_prunable_by_default",
            "tests/test_masks.py::test_a_filter_that_matches_nothing_is_refused",
        ),
    ),
    Mutation(
        "gradients are broadcast",
        "jaxprune/transforms/checking.py",
        'check_alike(who, "gradients", params, grads, remedy)',
        "del remedy",
        (_ALIKE + "test_gradients_are_not_broadcast",),
    ),
    Mutation(
        "the state of another optimizer is taken",
        "jaxprune/transforms/checking.py",
        "    if state_treedef != needed_treedef:\n",
        "    if False:\n",
        (_ALIKE + "test_a_state_of_another_optimizer_is_refused_by_its_leaves",),
    ),
    Mutation(
        "the state of another method is taken",
        "jaxprune/transforms/checking.py",
        "    if lacking:\n",
        "    if False:\n",
        (_ALIKE + "test_a_state_of_another_method_is_refused",),
    ),
    Mutation(
        "a transform within another hides its masks",
        "jaxprune/transforms/reading.py",
        "return nodes + [inner for node in nodes for field in node for inner in nodes_of(field, holds)]",
        "return nodes",
        (_ALIKE + "test_one_transform_within_another_has_no_masks_of_its_own",),
    ),
    Mutation(
        "signals are broadcast",
        "jaxprune/pruning/scoring.py",
        'check_alike(name, subject, params, signals[signal], "give one number for each weight")',
        "del subject",
        (_ALIKE + "test_signals_are_not_broadcast_where_there_is_one_number_for_each_weight",),
    ),
    Mutation(
        "a loss of NaN is a sensitivity",
        "jaxprune/sensitivity/analysis.py",
        "    if not np.isfinite(loss):\n",
        "    if False:\n",
        (_ALIKE + "test_a_loss_that_is_no_number_is_no_sensitivity",),
    ),
    Mutation(
        "8-bit floats are promoted as others are",
        "jaxprune/arrays/precision.py",
        "if not _is_tiny(dtype):",
        "if True:",
        (_ALIKE + "test_narrow_floats_have_exact_counts",),
    ),
)

TRAINING = (
    Mutation(
        "masked updates do not land on zero",
        _STATE,
        "return masks_lib.where(mask, wide_update, -weights.astype(wide_update.dtype))",
        "return wide_update",
        (_LAND,),
    ),
    Mutation(
        "narrow updates miss zero",
        _STATE,
        "wide_update = update.astype(common(update.dtype, weights.dtype))",
        "wide_update = update",
        (_LAND,),
    ),
    Mutation(
        "optimizer state off the masks is not cleared before the update",
        _STATE,
        "fresh_state = refresh(inner, inner_state, params, masks)",
        "fresh_state = inner_state",
        (
            "tests/transforms/test_sparsify.py::test_when_rigl_changes_masks_no_weight_moves_and_what_grows_has_no_momentum",
        ),
    ),
    Mutation(
        "optimizer state off the masks is not cleared after the update",
        _STATE,
        "new_state = refresh(inner, new_state, params, masks, but=stays)",
        "new_state = new_state",
        (_STALE + "[adabelief]",),
    ),
    Mutation(
        "weights off the masks decay into the state",
        _STATE,
        "masked_params = masks_lib.apply(params, masks)\n",
        "masked_params = params\n",
        (_STALE + "[decay into momentum]",),
    ),
    Mutation(
        "the optimizer sees gradients off the masks",
        _STATE,
        "masked_grads = masks_lib.apply(grads, masks)\n",
        "masked_grads = grads\n",
        ("tests/transforms/test_sparsify.py::test_gradient_clipping_does_not_see_pruned_weights",),
    ),
    Mutation(
        "a line search's loss is kept where the weights land elsewhere",
        _STATE,
        "new_state = forget_evaluations(new_state, when=lands_elsewhere)",
        "del lands_elsewhere",
        (_SEARCH + "[gmp-lbfgs]",),
    ),
    Mutation(
        "a line search's gradient is masked",
        _STATE,
        "stays = list(map(operator.or_, resting, is_evaluation))",
        "stays = resting",
        (
            "tests/transforms/test_line_search.py::test_where_masks_stay_the_loss_is_not_computed_again",
        ),
    ),
    Mutation(
        "effects of an optimizer happen again where its state is chosen",
        "jaxprune/transforms/chosen_state.py",
        "if equation.effects or all(",
        "if results and all(",
        ("tests/transforms/test_callbacks.py::test_callbacks_are_called_once_in_each_update",),
    ),
    Mutation(
        "trees like the parameters are not looked for in a state",
        "jaxprune/transforms/mirrored_state.py",
        "        if within:\n",
        "        if False:\n",
        (_MASKED_STATE + "test_fields_of_the_parameters_named_like_those_of_a_state",),
    ),
    Mutation(
        "what is raveled in a state has no mask",
        "jaxprune/transforms/raveled_state.py",
        "        return [vector]",
        "        return outputs",
        (_MASKED_STATE + "test_weights_that_come_back_bring_nothing_from_a_flattened_state",),
    ),
    Mutation(
        "optimizers are kept by what is known of them",
        "jaxprune/transforms/memo.py",
        "        return weakref.ref(value)",
        "        return value",
        ("tests/transforms/test_memo.py::test_neither_an_optimizer_nor_a_loss_is_kept",),
    ),
    Mutation(
        "weights that come back bring their old values",
        _STATE,
        "    if before is not None:  # what",
        "    if False:  # what",
        (
            "tests/transforms/test_sparsify.py::test_what_grows_in_the_first_update_starts_from_zero_though_nobody_has_masked",
        ),
    ),
    Mutation(
        "a change is made though gradients are not finite",
        "jaxprune/transforms/changes.py",
        "is_known = are_finite & (missing_count(unknown) == 0)",
        "is_known = are_finite | True",
        (
            "tests/transforms/test_changes.py::test_scores_without_a_number_hold_a_change_though_gradients_are_finite",
        ),
    ),
    Mutation(
        "a change that was held is forgotten",
        "jaxprune/transforms/changes.py",
        "pending[index] = jnp.asarray(is_due) & ~jnp.asarray(is_done)",
        "pending[index] = jnp.zeros((), bool)",
        (
            "tests/transforms/test_changes.py::test_the_record_tells_what_waits_and_counts_what_was_held",
        ),
    ),
    Mutation(
        "a state holds arrays of the caller",
        "jaxprune/transforms/containers.py",
        "lambda leaf: jnp.copy(leaf) if id(leaf) in ids_of_caller else leaf",
        "lambda leaf: leaf",
        ("tests/transforms/test_sparsify.py::test_no_state_holds_an_array_of_the_caller",),
    ),
    Mutation(
        "rewinding keeps the optimizer's moments",
        _TICKET,
        "refresh(inner, inner_state, weights, masks)",
        "refresh(inner, state.inner, weights, masks)",
        ("tests/lottery/test_ticket.py::test_rewinding_returns_the_stored_bits_of_everything",),
    ),
    Mutation(
        "the rewinding point is never stored",
        _TICKET,
        "step == plan.rewind_to,",
        "step == -1,",
        ("tests/lottery/test_ticket.py::test_rewinding_returns_the_stored_bits_of_everything",),
    ),
    Mutation(
        "an average is not corrected for its start",
        "jaxprune/transforms/average.py",
        "mean = (average / correction).astype(weights.dtype)",
        "mean = average.astype(weights.dtype)",
        ("tests/transforms/test_average.py::test_against_numpy",),
    ),
    Mutation(
        "an average of sparse weights is dense",
        "jaxprune/transforms/average.py",
        'return masks_lib.apply(average, united("averaged", "sparse states", held)) if held else average',
        "return average",
        ("tests/faults/test_mutants.py::test_an_average_forgets_what_is_removed",),
    ),
    Mutation(
        "what grows back has no decay",
        "jaxprune/transforms/straight_through.py",
        "return jnp.where(mask, grad, grad + decay * weights)",
        "return grad",
        ("tests/transforms/test_straight_through.py::test_sr_ste_pulls_what_is_off_the_mask",),
    ),
    Mutation(
        "the forward pass is dense",
        "jaxprune/transforms/straight_through.py",
        "    if not states:\n        return params\n    masks =",
        "    if True:\n        return params\n    masks =",
        ("tests/transforms/test_straight_through.py::test_ste_by_hand",),
    ),
)

STRUCTURED = (
    Mutation(
        "a unit goes though one of its slices is kept",
        "jaxprune/structured/shrinking/removal.py",
        "dead_mask &= ~axis_mask[member.index].any(1)",
        "dead_mask |= ~axis_mask[member.index].any(1)",
        ("tests/structured/test_shrink.py::test_masks_that_remove_no_unit_are_refused",),
    ),
    Mutation(
        "groups that are not exact are not told",
        "jaxprune/structured/graph/exactness.py",
        'group._replace(exact=False, reason="; ".join(reasons[i])) if i in reasons else group',
        "group",
        ("tests/structured/test_exactness.py::test_what_sees_zeros_is_flagged",),
    ),
    Mutation(
        "other zeros become weights again when a network shrinks",
        "jaxprune/structured/shrinking/shrink.py",
        "if not small_mask.all():",
        "if False:",
        ("tests/structured/test_shrink.py::test_other_zeros_stay_zeros",),
    ),
    Mutation(
        "another tree is shrunk",
        "jaxprune/structured/graph/graph.py",
        "            if shapes.get(path) != traced_shapes.get(path):\n",
        "            if False:\n",
        ("tests/faults/test_mutants.py::test_only_the_tree_that_was_traced_is_shrunk",),
    ),
)

SCIENCE: tuple[Mutation, ...] = (
    Mutation(
        "the worst trial is chosen",
        "experiments/studies/compare_runs.py",
        "best = max(finished,",
        "best = min(finished,",
        (
            "tests/experiments/studies/test_trials.py"
            "::test_the_trial_with_the_best_validation_accuracy_is_chosen",
        ),
    ),
    Mutation(
        "controls train as long as dense training, not as what they control",
        "experiments/studies/compare_runs.py",
        "point = _point(other.setup, point.control, point.value)",
        "point = _point(self.setup, point.control, point.value)",
        (
            "tests/experiments/studies/test_trials.py"
            "::test_what_is_chosen_trains_with_all_seeds_and_controls_train_as_long",
        ),
    ),
    Mutation(
        "what should begin anew keeps its pretrained weights",
        "experiments/studies/pretraining.py",
        "drawn if self._begins_anew(name) else leaf",
        "leaf",
        (
            "tests/experiments/studies/test_pretraining.py"
            "::test_all_begin_with_what_the_other_data_taught_but_for_what_is_redrawn",
        ),
    ),
    Mutation(
        "what has lost its checksum is read",
        "experiments/runs/files.py",
        "    if required and _CHECKSUM_KEY not in obj:\n",
        "    if False:\n",
        ("tests/faults/test_run_folders.py::test_what_has_lost_its_checksum_is_refused",),
    ),
    Mutation(
        "seconds of earlier processes are forgotten",
        "experiments/runs/processes.py",
        "        return [*self._earlier_rows, own_row]\n",
        "        return [own_row]\n",
        ("tests/experiments/runs/test_processes.py::test_seconds_of_killed_processes_count",),
    ),
    Mutation(
        "validation examples are standardised by moments of their own",
        "experiments/training/task.py",
        "validation_batches._replace(scaling=scaling)",
        "validation_batches._replace(scaling=_scaling_of(validation, cfg.data.name))",
        ("tests/experiments/training/test_task.py",),
    ),
    Mutation(
        "signals see images in [0, 1] where training sees standardised ones",
        "experiments/ways/oneshot.py",
        "scale(task.inputs[rows], task.scaling)",
        "scale(task.inputs[rows], None)",
        ("tests/experiments/training/test_task.py",),
    ),
    Mutation(
        "a claim may be held against anything",
        "experiments/config/paper.py",
        "    if against is not None and against not in tuple(AGAINST):\n",
        "    if False:\n",
        ("tests/experiments/reports/test_report.py::test_what_a_claim_is_held_against",),
    ),
    Mutation(
        "a value's gradient is that of one weight",
        "jaxprune/quantise/shared.py",
        "jax.ops.segment_sum(widen(_flat(grad))",
        "jax.ops.segment_max(widen(_flat(grad))",
        ("tests/quantise/test_codebooks.py",),
    ),
    Mutation(
        "masks shuffled in rows leave their rows",
        "jaxprune/masks/comparing.py",
        'layer_axes(leaf_axes) if within == "layer" else',
        'layer_axes(leaf_axes) if within != "tree" else',
        ("tests/lottery/test_branches.py",),
    ),
    Mutation(
        "pruned weights at their initial values are trained",
        "jaxprune/lottery/branches.py",
        "        seen = params if params is None else masks_lib.apply(params, state.masks)\n",
        "        seen = params\n",
        ("tests/lottery/test_branches.py",),
    ),
)

POSTTRAIN: tuple[Mutation, ...] = (
    Mutation(
        "two prunings after training work in one folder",
        "jaxprune/posttrain/store.py",
        '            stack.enter_context(locked(path / "lock"))\n',
        "            pass\n",
        (
            "tests/posttrain/test_resume.py::test_a_second_process_is_refused_until_the_first_has_ended",
        ),
    ),
    Mutation(
        "products of the inputs of two networks are transposed",
        "jaxprune/posttrain/propagation.py",
        "(cross_gram - gram) @ kernel",
        "(cross_gram.T - gram) @ kernel",
        ("tests/posttrain/test_propagation.py::test_the_correction_is_the_one_by_hand",),
    ),
    Mutation(
        "recovery undoes what kernels are corrected for",
        "jaxprune/posttrain/propagation.py",
        "output + weight * (dense_output - output)",
        "output + 0 * (dense_output - output)",
        (
            "tests/posttrain/test_propagation.py::test_recovery_trains_to_what_kernels_are_corrected_for",
        ),
    ),
    Mutation(
        "the error before recovery is of a kernel that was dense at its first use",
        "jaxprune/posttrain/reconstruct.py",
        "if any(len(kernel.inputs) > 1 for kernel in plan.kernels):",
        "if False:",
        (
            "tests/posttrain/test_driver.py::"
            "test_recovery_that_changes_nothing_finds_the_same_error_before_and_after",
        ),
    ),
    Mutation(
        "distillation measures the divergence the other way round",
        "experiments/training/distillation.py",
        "jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1)",
        "jnp.sum(jnp.exp(log_q) * (log_q - log_p), -1)",
        ("tests/experiments/training/test_distillation.py",),
    ),
    Mutation(
        "masks before training see a batch of the training's size",
        "experiments/studies/branch_starts.py",
        "self._task._replace(batch_size=EXAMPLES)",
        "self._task",
        (
            "tests/experiments/studies/test_branches.py::"
            "test_masks_at_initialisation_are_those_of_the_library",
        ),
    ),
    Mutation(
        "a sink on a finished model takes tensors that it lacks",
        "jaxprune/models/sink.py",
        "        if self.complete and name not in self.written:\n",
        "        if False:\n",
        (
            "tests/models/test_safetensors.py::test_a_sink_on_a_whole_model_writes_nothing_and_compares",
        ),
    ),
    Mutation(
        "a solver may drop a weight that is NaN",
        "jaxprune/posttrain/steps.py",
        "if not bool(summary.was_finite):",
        "if False:",
        ("tests/faults/test_api_misuse.py::test_misuses_are_answered_in_a_sentence[posttrain]",),
    ),
    Mutation(
        "rows are not held against the kernels before a folder is made",
        "experiments/studies/posttrain_runs.py",
        '    check_rows(plan_of(section, subject), rows, section["rows"])\n',
        "",
        (
            "tests/experiments/studies/test_posttrain.py"
            "::test_what_does_not_fit_the_kernels_is_told_before_a_folder_is_made",
        ),
    ),
    Mutation(
        "fields that pruning after training does not read are accepted",
        "experiments/studies/posttrain.py",
        "if name not in _READ and",
        "if False and",
        ("tests/experiments/studies/test_posttrain.py::test_fields_that_are_not_read_are_refused",),
    ),
    Mutation(
        "a saved function has the parameters of another",
        "jaxprune/structured/shrinking/saved.py",
        "mismatch = _find_mismatch(program, params)",
        'mismatch = ""',
        ("tests/faults/test_strangers.py::test_parameters_of_other_people",),
    ),
    Mutation(
        "JSON of any size is read",
        "jaxprune/storage/sealed.py",
        'text = file.read(size) if size <= LARGEST else b""\n    if size > LARGEST:',
        "text = file.read(size)\n    if False:",
        ("tests/storage/test_sealed.py::test_a_huge_file_is_refused_before_it_is_in_memory",),
    ),
    Mutation(
        "inputs of the second span count as inputs before it",
        "jaxprune/posttrain/solvers/sweep.py",
        "jnp.arange(span)[:, None] < rows_before",
        "jnp.arange(span)[:, None] < span",
        ("tests/posttrain/test_solvers.py::test_sparsegpt_is_the_published_algorithm",),
    ),
    Mutation(
        "a factor that is not finite is taken for one",
        "jaxprune/posttrain/solvers/factor.py",
        "~jnp.isfinite(jnp.diagonal(upper)).all()",
        "False",
        ("tests/posttrain/test_solvers.py::test_singular_grams",),
    ),
    Mutation(
        "a seed is put together of two origins",
        "experiments/runs/taken_seeds.py",
        "if record.get(str(seed)) == str(source) or not _begun_seeds(path, [seed])",
        "if True",
        (
            "tests/experiments/runs/test_taken_seeds.py::test_a_seed_that_has_begun_here_is_kept_whole_and_said",
        ),
    ),
    Mutation(
        "seeds are taken whose settings other trials have chosen",
        "experiments/runs/taken_seeds.py",
        "if any(len(tried) > 1 for tried in trials.values()):",
        "if False:",
        (
            "tests/experiments/runs/test_taken_seeds.py::test_settings_chosen_by_trials_are_those_of_one_folder",
        ),
    ),
    Mutation(
        "a taken seed is trained again",
        "experiments/runs/taken_seeds.py",
        "if folder_seed == seed and not _holds_files(target):",
        "if False:",
        ("tests/faults/test_seeds_in_parts.py::test_folds_come_along",),
    ),
    Mutation(
        "branches join whatever tickets are there",
        "experiments/studies/branch_runs.py",
        'if level["branches"][name] != ticket_level["branches"]["ticket"]:',
        "if False:",
        (
            "tests/faults/test_seeds_in_parts.py"
            "::test_branches_need_the_ticket_that_they_began_with",
        ),
    ),
    Mutation(
        "SReLU's thresholds do not stay in order",
        "jaxprune/nn/srelu.py",
        "        width = jnp.abs(width)\n",
        "",
        ("tests/nn/test_set_mlp.py::test_srelu_has_three_pieces",),
    ),
)

MUTATIONS: tuple[Mutation, ...] = (
    *STORED,
    *RUNS,
    *SELECTION,
    *MASKS,
    *TRAINING,
    *STRUCTURED,
    *SCIENCE,
    *POSTTRAIN,
)
