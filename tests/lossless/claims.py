"""What is claimed about the output, which tests hold it, and which controls show they can fail.

``report.py`` runs all of it and prints one row a claim.  A name is a test function with all its
cases.  A control is a test that passes only if a system made wrong on purpose fails the statistic
(or comparison) of the claim.
"""

from dataclasses import dataclass

HERE = "tests/lossless/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One row.

    Attributes:
        text: The claim, in a few words; ``docs/losslessness.md`` explains it under the same words.
        tests: Node ids, without parameters.
        controls: Likewise; a claim whose test has its control inside names the test again.
        n: Of what does not say it itself.
        statistic: Likewise.
    """

    text: str
    tests: tuple[str, ...]
    controls: tuple[str, ...]
    n: str = ""
    statistic: str = ""


def _in(file: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{file}::{name}" for name in names)


_APPENDIX_A = HERE + "test_appendix_a.py"
_TWO = HERE + "test_two_sessions.py"
_REJECTION = HERE + "test_rejection_law.py"
_REJECTION_STEP = "tests/kernels/test_rejection_step.py"
_REJECTION_ENGINES = HERE + "test_rejection_engines.py"
_GUARD = HERE + "test_guard.py"
_COUPLED = HERE + "test_coupled_law.py"
_BYTES = HERE + "test_bytes.py"
_RULES = HERE + "test_rules.py"
_ADMISSION = "tests/core/test_admission.py"
_SAMPLING = "tests/kernels/test_sampling.py"
_ENGINE = "tests/verifier/test_engine.py"
_SYSTEM = "tests/system/test_processes.py"
_TARGET = "tests/model/test_target.py"
_SHIPPED = HERE + "test_shipped_pair.py"
_PROCESS_LAW = "e2e/test_law.py"
_PROCESS_BYTES = "e2e/test_bytes.py"

CLAIMS: tuple[Claim, ...] = (
    Claim(
        text="Admission in use keeps the law (Appendix A)",
        tests=_in(
            _APPENDIX_A,
            "test_algorithm_1_keeps_the_target_s_law",
            "test_a_budget_fixed_beforehand_keeps_it_for_every_k",
            "test_whatever_is_known_the_rule_chosen_keeps_it",
        ),
        controls=_in(
            _APPENDIX_A,
            "test_control_a_global_search_on_the_drafts_themselves_is_biased",
            "test_control_ties_broken_by_index_are_biased",
            "test_control_dropping_a_block_because_its_tail_looks_bad_is_biased",
            "test_control_a_budget_made_of_the_drafts_to_be_judged_is_biased",
        ),
        statistic="exact: the law is p",
    ),
    Claim(
        text="Drafts drawn from the q told keep the law",
        tests=_in(
            _APPENDIX_A,
            "test_drafts_drawn_from_the_q_told_keep_the_law",
            "test_the_first_of_two_replies_keeps_the_law",
        ),
        controls=_in(
            _APPENDIX_A,
            "test_control_the_more_confident_of_two_replies_is_biased",
            "test_control_argmaxed_drafts_with_a_soft_q_are_biased",
            "test_control_cutting_only_the_copy_on_the_wire_is_biased",
        ),
        statistic="exact: the law is p",
    ),
    Claim(
        text="Two sessions of a step keep their joint law",
        tests=_in(
            _TWO,
            "test_the_joint_law_is_the_targets_own_under_every_k",
            "test_it_is_under_algorithm_1",
        ),
        controls=_in(_TWO, "test_control_rules_that_look_ahead_change_the_joint_law"),
    ),
    Claim(
        text="Admission by rank is causal and the best",
        tests=_in(
            _ADMISSION,
            "test_top_k_equals_a_frontier_walk",
            "test_top_k_equals_a_frontier_walk_where_everything_ties",
            "test_top_k_gains_as_much_as_brute_force",
            "test_no_admission_depends_on_its_own_session_s_later_drafts",
            "test_algorithm_1_is_its_own_pseudocode",
            "test_algorithm_1_finds_the_best_where_cost_is_convex",
        ),
        controls=_in(
            _ADMISSION, "test_algorithm_1_stops_at_a_stair_that_no_number_of_drafts_pays_for"
        ),
        n="6 x 80 examples",
        statistic="exact: equal",
    ),
    Claim(
        text="Rejection sampling has the target's joint law",
        tests=_in(
            _REJECTION,
            "test_the_committed_tokens_have_the_target_s_joint_law",
            "test_a_distribution_cut_before_drawing_keeps_the_law",
        ),
        controls=_in(
            _REJECTION,
            "test_control_drafts_that_were_not_drawn_from_the_q_told",
            "test_control_a_rejection_that_draws_from_p",
            "test_control_drafts_from_the_uniforms_that_judge_them",
        ),
    ),
    Claim(
        text="Rejection accepts with 1 - TV",
        tests=_in(_REJECTION, "test_a_draft_is_accepted_with_one_minus_the_total_variation"),
        controls=_in(_REJECTION, "test_control_such_drafts_are_accepted_too_often"),
    ),
    Claim(
        text="One step by rejection, as served, has the target's law",
        tests=_in(
            _REJECTION_STEP,
            "test_one_step_has_the_targets_law",
            "test_the_requests_limits_shape_p_and_q",
            "test_rounding_to_what_is_shipped_happens_before_the_draw",
        ),
        controls=_in(
            _REJECTION_STEP,
            "test_control_truncating_the_shipped_copy_only_is_caught",
            "test_control_q_from_before_the_rounding_is_caught",
            "test_control_a_residual_of_p_alone_is_caught",
            "test_control_the_targets_own_numbers_in_the_drafter_are_caught",
        ),
        n="18 x 3,000",
        statistic="chi-square as z, below 4",
    ),
    Claim(
        text="Rejection through the real engines has the target's joint law",
        tests=_in(
            _REJECTION_ENGINES,
            "test_the_joint_law_is_the_targets",
            "test_it_is_for_every_block_size_temperature_and_budget",
            "test_a_law_that_is_cut_before_the_draw_does_not_bend_it",
            "test_greedy_and_coupled_outputs_know_nothing_of_the_mode",
        ),
        controls=_in(_REJECTION_ENGINES, "test_control_truncating_the_shipped_copy_only_is_caught"),
    ),
    Claim(
        text="Laws that no honest drafter ships are refused",
        tests=_in(
            "tests/drafting/test_fences.py",
            "test_laws_that_no_honest_drafter_ships_are_malformed",
            "test_a_token_twice_in_a_law_is_malformed",
            "test_drafts_without_laws_are_malformed_where_laws_are_needed",
        ),
        controls=_in(
            "tests/drafting/test_fences.py", "test_laws_that_could_draw_the_tokens_are_a_hit"
        ),
        statistic="exact: malformed",
    ),
    Claim(
        text="The online guard accuses who is wrong, and nobody else",
        tests=_in(
            _GUARD,
            "test_an_honest_verifier_is_not_accused",
            "test_coupled_and_greedy_requests_are_compared_token_by_token",
            "test_a_repeated_seed_is_used_once",
            "test_the_law_of_a_plain_step_is_the_softmax",
        ),
        controls=_in(
            _GUARD,
            "test_wrong_acceptance_is_caught_and_speculation_ends",
            "test_a_drafter_that_lies_about_its_law_is_caught",
            "test_coupled_and_greedy_requests_are_compared_token_by_token",
        ),
        n="3,240 requests, 22,680 tokens",
        statistic="betting martingale below 10^6",
    ),
    Claim(
        text="Coupled noise has the softmax's law",
        tests=_in(
            _SAMPLING,
            "test_coupled_tokens_follow_the_softmax",
            "test_tokens_at_neighbouring_positions_are_independent",
        ),
        controls=_in(
            _SAMPLING,
            "test_coupled_tokens_follow_the_softmax",
            "test_tokens_at_neighbouring_positions_are_independent",
        ),
        n="2 x 20,000",
        statistic="chi-square, 8 d.f., below 26.1",
    ),
    Claim(
        text="Sequences of the real engines have the target's joint law",
        tests=_in(
            _COUPLED,
            "test_sequences_have_the_target_s_joint_law",
            "test_they_have_it_for_every_block_size_temperature_and_budget",
            "test_so_have_other_pairs_under_a_budget_that_never_rests",
            "test_two_tenants_in_the_same_steps_keep_their_own_laws",
        ),
        controls=_in(_COUPLED, "test_control_a_target_that_commits_something_else"),
    ),
    Claim(
        text="Sequences through real processes have the target's joint law",
        tests=_in(
            _PROCESS_LAW,
            "test_sequences_through_real_processes_have_the_target_s_joint_law",
        ),
        controls=_in(
            _PROCESS_LAW,
            "test_control_a_drafter_process_that_ships_a_cut_copy_is_caught",
            "test_control_a_verifier_process_that_believes_drafts_is_caught",
        ),
    ),
    Claim(
        text="Coupled drafts are accepted as often as theory says",
        tests=_in(
            _COUPLED,
            "test_drafts_are_accepted_as_often_as_the_bound_and_the_race_of_exponentials_say",
        ),
        controls=_in(
            _COUPLED, "test_control_a_drafter_with_noise_of_its_own_falls_below_the_bound"
        ),
    ),
    Claim(
        text="The same tokens for every drafter and schedule",
        tests=_in(
            _BYTES,
            "test_streams_are_the_same_with_speculation",
            "test_they_are_with_every_drafter_under_every_schedule",
        ),
        controls=_in(_BYTES, "test_control_a_target_that_looks_at_the_batch_or_the_drafts_is_seen"),
    ),
    Claim(
        text="The same tokens under penalties, bias and grammars",
        tests=(
            *_in(_RULES, "test_rules_give_the_same_tokens_with_speculation_on_off_and_capped"),
            *_in(
                "tests/model/test_session_logits.py",
                "test_a_block_is_processed_as_plain_decoding_would",
                "test_a_block_leaves_no_trace",
                "test_all_rules_equal_a_plain_reference",
            ),
            *_in("tests/model/test_grammar.py", "test_every_output_that_ends_fits_its_grammar"),
            *_in(
                _SYSTEM,
                "test_rules_and_logprobs_are_the_same_with_speculation_on_off_and_capped",
            ),
        ),
        controls=_in(_RULES, "test_control_rules_that_do_not_advance_along_the_draft_are_seen"),
        statistic="exact: equal",
    ),
    Claim(
        text="Penalties and grammars keep the law judged by rejection",
        tests=_in(
            _RULES,
            "test_penalties_keep_the_law_judged_by_rejection",
            "test_a_grammar_keeps_the_law_judged_by_rejection",
            "test_grammars_are_followed_where_drafts_are_judged_by_rejection",
        ),
        controls=_in(
            _RULES,
            "test_control_penalties_of_the_committed_tokens_alone_bend_the_law",
            "test_control_leaving_out_the_forbidden_draft_bends_the_law",
        ),
    ),
    Claim(
        text="The same greedy tokens on 200 prompts with the shipped pair",
        tests=_in(_SHIPPED, "test_greedy_outputs_of_200_prompts_are_those_of_plain_decoding"),
        controls=_in(_BYTES, "test_control_a_target_that_looks_at_the_batch_or_the_drafts_is_seen"),
    ),
    Claim(
        text="The same tokens when a drafter is killed or a stream moves",
        tests=_in(
            _BYTES,
            "test_they_are_where_the_drafter_is_killed_and_another_takes_over",
            "test_a_stream_moved_to_another_replica_goes_on_where_it_was",
        ),
        controls=_in(_BYTES, "test_control_a_target_that_looks_at_the_batch_or_the_drafts_is_seen"),
    ),
    Claim(
        text="The same tokens over gRPC, with controller and prefill pool",
        tests=_in(
            _SYSTEM,
            "test_streams_are_the_same_with_speculation_on_off_and_capped",
            "test_sessions_side_by_side_get_what_they_get_alone",
            "test_a_drafter_that_goes_and_comes_back_mid_stream_changes_no_token",
            "test_a_prompt_from_the_prefill_pool_equals_one_that_ran_here",
            "test_losing_the_prefill_pool_costs_time_only",
        ),
        controls=(),
        statistic="exact: equal",
    ),
    Claim(
        text="The same tokens through real processes, whatever drafts or is killed",
        tests=_in(
            _PROCESS_BYTES,
            "test_streams_through_real_processes_are_those_of_plain_decoding",
            "test_they_are_when_the_budget_changes_mid_stream",
            "test_they_are_when_the_drafter_is_killed_mid_stream",
            "test_they_are_when_the_verifier_is_killed_and_another_one_goes_on",
        ),
        controls=_in(
            _PROCESS_BYTES, "test_control_a_verifier_process_that_believes_drafts_is_seen"
        ),
    ),
    Claim(
        text="The engine commits the one true continuation (integer fakes)",
        tests=_in(
            _ENGINE,
            "test_output_is_the_targets_own_under_every_budget",
            "test_losing_every_drafter_mid_stream_changes_nothing",
            "test_sessions_move_to_another_drafter_and_a_new_one_is_used_again",
            "test_a_drafter_that_is_always_wrong_costs_speed_only",
            "test_a_resumed_generation_continues_where_it_stopped",
        ),
        controls=(),
        statistic="exact: equal",
    ),
    Claim(
        text="Stale, late, foreign and repeated drafts are never used",
        tests=_in("tests/drafting/test_desk_under_faults.py", "TestDeskUnderFaults"),
        controls=(),
        n="60 x 40 steps",
        statistic="exact: invariants hold",
    ),
    Claim(
        text="A cached, ragged, rolled-back drafter equals recomputation",
        tests=_in(
            "tests/model/test_drafter_runner.py",
            "test_cached_and_rolled_rounds_equal_recomputation",
        ),
        controls=_in(
            "tests/model/test_drafter_runner.py",
            "test_a_row_missing_from_the_context_changes_the_block",
        ),
        n="4 x 51 accepts",
        statistic="tokens equal",
    ),
    Claim(
        text="Projected rows equal the Hugging Face hidden states",
        tests=_in(_TARGET, "test_rows_are_fc_and_norm_of_the_tapped_hidden_states"),
        controls=_in("tests/model/test_self_check.py", "test_a_tap_one_layer_off_is_refused"),
        statistic="within 1e-4",
    ),
    Claim(
        text="Logits are bitwise independent of the batch and the path",
        tests=(
            *_in(
                _TARGET,
                "test_logits_and_rows_are_bitwise_independent_of_batch_chunk_and_pages",
                "test_rejected_tokens_leave_no_trace",
                "test_imported_kv_and_rows_continue_bit_for_bit",
            ),
            *_in(
                "tests/kernels/test_attention.py",
                "test_a_row_does_not_depend_on_the_batch_the_chunk_or_the_pages",
            ),
            *_in(
                "tests/model/test_packed_linear.py",
                "test_rows_are_independent_of_their_number",
            ),
        ),
        controls=(
            *_in(
                "tests/kernels/test_attention.py",
                "test_the_usual_attention_does_depend_on_the_number_of_queries",
            ),
            *_in("tests/model/test_packed_linear.py", "test_plain_linears_are_not_independent"),
        ),
        statistic="exact: bits equal",
    ),
)
