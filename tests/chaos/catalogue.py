"""The ranked faults: what is promised for each, and which tests show it.

Ranked by how likely a fault is, how much it costs, and how often gateways have failed at it. `tests` run in
`make test` (a few of them, marked slow, in `make test-all`); `long` in `make chaos`. A rank whose tests go through all there is
(every field, every route, every pattern) has no other long test than the same ones under new random numbers
and with five times as many examples: `test_again.py`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rank:
    """One fault, and where it is tested."""

    number: int
    title: str
    shows: str
    """What the tests promise, in a sentence."""
    tests: tuple[str, ...]
    """Files below `tests/`, each with the name of a test after `::`, or without for all of its tests."""
    long: tuple[str, ...] = ()
    """Tests of this folder; empty for `test_again.py`."""

    @property
    def scenarios(self) -> tuple[str, ...]:
        """The names of its long tests, without parameters."""
        return self.long or (f"test_again.py::test_the_tests_again[{self.number:02d}]",)


MONEY = "integration/data_plane/test_money.py"
SURFACES = "integration/data_plane/test_surfaces.py"
FALLBACKS = "integration/data_plane/test_fallbacks.py"
BAD_INPUT = "integration/data_plane/test_bad_input.py"
TRANSPARENCY = "integration/data_plane/test_transparency.py"
RUNS = "integration/data_plane/test_runs.py"
KILL = "integration/data_plane/test_kill.py"
CRASHES = "integration/processes/test_crashes.py"
REPLICAS = "integration/processes/test_replicas.py"
OUTAGE = "integration/processes/test_outage.py"
REDIS = "integration/stores/test_redis_store.py"
REDIS_FAILS = "integration/stores/test_redis_failures.py"
STORE_RULES = "integration/stores/test_store_rules.py"
GOVERNANCE = "integration/stores/test_governance_rules.py"
TRANSPORT = "unit/upstreams/test_transport.py"
SENDING = "unit/test_sending.py"

RANKS = (
    Rank(
        1,
        "many at once on one budget",
        "However many ask at once, on however many workers, no more are admitted than the budget can pay; what is "
        "not used comes back, and exactly what still fits is admitted",
        (
            f"{MONEY}::test_two_hundred_at_once_spend_a_budget_for_ten_on_ten",
            f"{REPLICAS}::test_two_hundred_at_once_on_two_workers_never_pass_a_budget_for_ten",
            f"{REDIS}::test_four_processes_cannot_spend_a_budget_of_ten_more_than_ten_times",
        ),
        ("test_money.py::test_nobody_spends_more_than_there_is",),
    ),
    Rank(
        2,
        "kill -9 of workers",
        "Each attempt is settled once, never for less than was served; nothing stays reserved; a second restart "
        "changes nothing",
        (
            f"{CRASHES}::test_a_killed_process_settles_everything_once_after_its_restart",
            f"{CRASHES}::test_a_restart_forgets_neither_runs_nor_kills",
            f"{REPLICAS}::test_a_killed_worker_leaves_nothing_unsettled",
            "unit/test_journal.py",
        ),
        ("test_money.py::test_killed_workers_lose_nothing",),
    ),
    Rank(
        3,
        "Redis killed, stopped, emptied, filled, set back",
        "Callers are refused in time and served again soon; a budget that is used up stays so; afterwards the "
        "counters are the sums of the ledger, and the ledger holds the provider's journal",
        (
            f"{REDIS_FAILS}::test_a_stopped_server_is_refused_in_time_then_at_once_and_keeps_nothing",
            f"{REDIS_FAILS}::test_a_killed_server_that_comes_back_empty_is_filled_from_the_ledger",
            f"{REDIS_FAILS}::test_a_server_that_lost_its_last_writes_is_raised_to_the_ledger",
            f"{REDIS_FAILS}::test_a_full_server_changes_nothing_and_settles_later",
            f"{REDIS}::test_a_flushed_database_admits_nothing_beyond_the_ledger",
            f"{REDIS}::test_a_rebuild_never_lowers_what_redis_knows_better",
        ),
        ("test_redis.py::test_whatever_becomes_of_redis",),
    ),
    Rank(
        4,
        "callers who leave",
        "A caller who leaves at any event of a stream pays what was served: with `drain` exactly, with `abort` at "
        "least that and at most the declared allowance more; the provider's call ends within a second",
        (
            f"{MONEY}::test_a_client_that_leaves_at_any_chunk_is_billed_what_was_generated",
            f"{MONEY}::test_a_client_that_leaves_is_billed_exactly_when_the_policy_says_drain",
            f"{MONEY}::test_a_client_that_leaves_aborts_the_upstream_within_a_second",
            f"{MONEY}::test_a_plain_call_whose_client_leaves_aborts_the_upstream_and_is_billed_its_reservation",
            f"{MONEY}::test_a_client_that_leaves_after_the_last_word_is_billed_exactly",
            f"{SURFACES}::test_a_client_that_leaves_is_billed_for_what_was_served",
            "integration/data_plane/test_connections.py::test_a_client_that_sends_and_closes_at_once_spends_nothing_or_what_was_served",
        ),
        ("test_money.py::test_callers_who_leave_pay_what_was_served",),
    ),
    Rank(
        5,
        "a provider's stream that breaks off",
        "Cut at any byte, closed, reset or as if all were well, it is never a clean end to a real SDK, and never a "
        "whole tool call with half its arguments",
        (
            "clients/test_cuts.py",
            "unit/surfaces/test_cuts.py",
            f"{MONEY}::test_an_upstream_cut_at_any_byte_is_never_a_clean_end_and_never_free",
            f"{SURFACES}::test_a_stream_that_breaks_off_upstream_never_ends_cleanly",
            f"{SURFACES}::test_a_half_tool_call_is_never_delivered_as_a_whole_one",
        ),
        ("test_upstream.py::test_no_cut_stream_passes_for_whole",),
    ),
    Rank(
        6,
        "what real SDKs make of a refusal",
        "A verdict that is final costs each of the SDKs and frameworks exactly one attempt, and reaches the agent as the "
        "error its documentation names",
        ("clients/test_refusals.py", "clients/test_cli.py"),
    ),
    Rank(
        7,
        "a field that no guard sees",
        "A canary in each string of each request schema of the SDKs is blocked, or its field is in a reviewed list",
        ("integration/screening/test_every_field.py", "parity/test_text_is_seen.py"),
    ),
    Rank(
        8,
        "a canary in an answer",
        "Not a byte of it leaves, whatever the shape of the stream, wherever it is cut",
        (
            "unit/screening/test_stream.py",
            "unit/screening/test_window.py",
            "integration/data_plane/test_screening.py::test_not_a_byte_of_a_blocked_answer_leaves",
        ),
    ),
    Rank(
        9,
        "unknown, zero, negative and absurd prices and usage",
        "A model without a price is refused; cost is a whole number of at least zero and grows with every bucket, whatever a "
        "provider says",
        (
            "unit/metering/test_usage.py",
            "unit/metering/test_prices.py",
            f"{MONEY}::test_an_unknown_price_is_refused_before_anything_is_sent",
        ),
    ),
    Rank(
        10,
        "a settlement twice, late, out of order",
        "Counters move once for each attempt; both stores and a model of the money agree on random histories",
        (
            "integration/stores/test_stores_agree.py",
            f"{STORE_RULES}::test_a_provisional_end_gives_way_to_the_real_figure_once",
            "integration/ledger/test_append.py",
        ),
    ),
    Rank(
        11,
        "a request that chooses its upstream",
        "No body, header, query or path leads anywhere but to the policy's provider, and no credential of the caller's goes on",
        (
            f"{TRANSPARENCY}::test_no_request_chooses_its_upstream",
            f"{TRANSPARENCY}::test_credentials_and_hop_headers_stay_here",
            f"{TRANSPARENCY}::test_a_redirect_is_not_followed",
            f"{TRANSPARENCY}::test_the_gateways_own_rejected_credentials_are_told_without_their_words",
            "unit/upstreams/test_dialects.py",
            "security/test_ssrf.py",
        ),
    ),
    Rank(
        12,
        "secrets and prompts in logs, traces, records",
        "What was said, and every secret, is in none of them unless the policy says so",
        (
            "integration/telemetry/test_logs.py::test_nothing_that_was_said_is_ever_written",
            "integration/telemetry/test_content.py",
            "integration/admin/test_reports.py::test_no_secret_is_in_the_audit_log",
            "integration/test_alerts.py::test_neither_url_nor_secret_is_shown_anywhere",
            "unit/policy/test_loading.py::test_secrets_print_nowhere",
            "security/test_sentinels.py",
        ),
    ),
    Rank(
        13,
        "another tenant's words",
        "Callers who leave while Redis is slow never leave their answer to somebody else",
        (
            f"{REDIS}::test_nobody_reads_anothers_answer_whoever_is_cancelled",
            "integration/screening/test_round_trip.py::test_sessions_and_principals_share_nothing",
            f"{TRANSPORT}::test_many_at_once_each_get_their_own_answer",
        ),
        ("test_redis.py::test_no_tenant_ever_sees_anothers_words",),
    ),
    Rank(
        14,
        "routes without a key",
        "Every route of both planes, however it is spelt, answers 401, 403 or 404 without a credential, and serves its role and those above",
        (
            f"{BAD_INPUT}::test_every_failed_authentication_gets_the_same_answer",
            f"{BAD_INPUT}::test_every_other_path_is_unknown",
            "integration/admin/test_roles.py",
            "integration/admin/test_access.py",
            "integration/admin/test_sessions.py::test_no_path_leads_around_the_door",
            "security/test_routes.py",
        ),
    ),
    Rank(
        15,
        "a guard that is down",
        "Timeouts, errors, nonsense, crashes and floods of a detector, a classifier or a judge are a verdict by policy, and counted",
        (
            "integration/screening/test_failures.py::test_without_a_verdict_the_policy_decides",
            "integration/screening/test_failures.py::test_a_pool_of_processes_that_hang_is_a_refusal_in_time",
            "unit/screening/test_screens.py::test_without_a_verdict_the_rules_decide",
            "unit/screening/test_pool.py",
            "integration/screening/test_judge.py::test_without_a_verdict_the_rule_decides",
            "integration/data_plane/test_moderation.py::test_without_a_verdict",
        ),
    ),
    Rank(
        16,
        "work that holds up the loop",
        "Texts of a megabyte are screened in other processes, under a deadline; small calls and `/healthz` go on",
        (
            "integration/screening/test_failures.py::test_long_texts_do_not_hold_up_short_ones",
            "unit/screening/test_pool.py::test_too_much_at_once_is_told",
        ),
        ("test_process.py::test_long_texts_do_not_hold_up_the_loop",),
    ),
    Rank(
        17,
        "patterns that take for ever",
        "Every pattern takes time by the length of the text alone, on the texts made to prevent it; one that cannot is refused at load",
        (
            "unit/screening/test_secrets.py::test_hostile_texts_take_time_by_their_length_alone",
            "unit/screening/test_pii.py::test_hostile_texts_take_time_by_their_length_alone",
            "unit/screening/test_pii.py::test_a_pattern_that_is_not_linear_or_not_clear_is_refused",
            "unit/screening/test_injection.py::test_time_is_linear",
            "unit/screening/test_normalise.py::test_time_is_linear",
            "unit/screening/test_links.py::test_hostile_texts_take_linear_time",
            "unit/screening/test_leak.py::test_long_texts_take_linear_time",
            "unit/screening/test_matching.py",
            "unit/screening/test_screens.py::test_pathological_requests_take_bounded_time",
            "security/test_patterns.py",
        ),
    ),
    Rank(
        18,
        "bombs: compressed, deep, giant",
        "Refused at the cap, in time, with bounded memory, while others are served",
        (
            f"{BAD_INPUT}::test_bombs_and_unknown_encodings_are_refused",
            f"{BAD_INPUT}::test_a_chunked_body_without_end_is_cut_at_the_cap",
            f"{BAD_INPUT}::test_a_wrong_body_is_refused_and_charged_nothing",
        ),
        ("test_process.py::test_bombs_cost_little",),
    ),
    Rank(
        19,
        "a fallback that is dearer than the budget",
        "The budget is asked again for each target; without room nothing is sent",
        (
            f"{FALLBACKS}::test_a_budget_that_pays_for_the_first_alone_refuses_the_fallback",
            f"{OUTAGE}::test_a_budget_for_the_first_alone_refuses_the_fallback_before_anything_is_sent",
            "integration/data_plane/test_routing.py::test_an_escalation_stays_inside_the_budget",
        ),
    ),
    Rank(
        20,
        "a kill, on every worker",
        "Streams of the killed end with an error event within a second and the provider's calls with them, others "
        "go on; if the push is lost, polling tells it within two",
        (
            f"{REPLICAS}::test_a_kill_reaches_the_streams_of_every_worker_within_a_second",
            f"{REDIS}::test_a_kill_reaches_every_worker_also_after_its_connection_was_cut",
            f"{REDIS}::test_a_kill_set_by_hand_refuses_the_next_admission",
            f"{KILL}::test_a_kill_ends_a_stream_in_flight_with_an_error_event",
            f"{KILL}::test_a_kill_of_one_key_does_not_touch_another",
        ),
        ("test_redis.py::test_a_kill_is_obeyed_by_every_worker",),
    ),
    Rank(
        21,
        "SIGTERM with streams under way",
        "Streams that end within the drain end as they should, the others with an error event and not as if they were whole; all is settled before the exit",
        (
            f"{CRASHES}::test_a_shutdown_ends_streams_with_an_error_event_and_settles_them",
            "integration/processes/test_stops.py",
        ),
        ("test_money.py::test_open_streams_end_with_their_process",),
    ),
    Rank(
        22,
        "a provider that falls silent",
        "At whatever point, the caller is told within the limit; nothing stays reserved; others notice nothing",
        (
            f"{TRANSPORT}::test_stalls_end_at_their_own_limit_and_close_the_connection",
            f"{TRANSPORT}::test_tls_handshake_that_never_ends_is_a_connect_timeout",
            f"{TRANSPORT}::test_total_limit_closes_a_stream_that_nobody_reads",
            f"{FALLBACKS}::test_no_answer_in_time_is_not_waited_for_twice",
        ),
        ("test_upstream.py::test_a_silence_at_any_point_ends_in_time",),
    ),
    Rank(
        23,
        "windows, zones, clocks",
        "Windows begin and end at the local boundary in every zone, also when the clocks change; hosts whose clocks are wrong charge the same window",
        (
            "unit/rules/test_windows.py",
            f"{STORE_RULES}::test_a_step_is_charged_to_the_window_it_was_admitted_in",
        ),
        (
            "test_time.py::test_windows_of_every_zone",
            "test_time.py::test_hosts_whose_clocks_are_wrong_share_one_window",
        ),
    ),
    Rank(
        24,
        "usage as providers tell it",
        "The last word counts and a repeated one changes nothing, on every provider's own way of telling it",
        (
            "unit/metering/test_usage.py",
            "unit/metering/test_recorded.py",
            "integration/data_plane/test_recorded_surfaces.py",
            f"{SURFACES}::test_a_usage_told_again_changes_nothing",
        ),
    ),
    Rank(
        25,
        "which steps are one run",
        "Retries, parallel twins, truncated, compacted and edited histories of real SDKs and frameworks land in the right run",
        (
            "clients/test_loops.py",
            "clients/test_conversations.py",
            RUNS,
            "integration/incidents/test_parallel_agents.py",
            f"{KILL}::test_a_killed_run_stays_killed_and_its_siblings_live",
        ),
    ),
    Rank(
        26,
        "loops that are none, and loops that hide",
        "The labelled corpus of traces is told apart with the precision and recall that the page on loops states",
        ("unit/rules/test_loop_corpus.py", "unit/rules/test_loops.py"),
    ),
    Rank(
        27,
        "attacks in disguise",
        "Encoded, split, spaced and look-alike attacks are found; texts of everyday are left alone",
        (
            "unit/screening/test_injection.py",
            "unit/screening/test_normalise.py",
            "unit/screening/test_classifier.py::test_an_attack_is_found_wherever_it_stands_in_a_long_text",
            "integration/screening/test_attacks.py",
        ),
    ),
    Rank(
        28,
        "clients that are slow on purpose",
        "Trickling heads and bodies are cut, readers who do not read hold their provider back; memory is bounded and others are served",
        (
            "integration/data_plane/test_slow_clients.py",
            "security/test_smuggling.py::test_a_head_that_trickles_is_cut_by_a_deadline",
            f"{TRANSPORT}::test_slow_reader_holds_the_upstream_back",
            f"{KILL}::test_a_client_that_does_not_read_is_still_cut",
        ),
        ("test_process.py::test_slow_clients_hold_up_nobody",),
    ),
    Rank(
        29,
        "calls given up in masses",
        "No slot and no connection stays taken; everything afterwards is served",
        (
            f"{TRANSPORT}::test_cancelled_sends_leave_no_slot_taken",
            f"{TRANSPORT}::test_cancelled_send_with_an_unread_body_closes_its_connection",
            "unit/upstreams/test_capacity.py::test_cancellations_at_every_point_leak_nothing",
        ),
        ("test_upstream.py::test_calls_given_up_in_masses_leave_no_connection_taken",),
    ),
    Rank(
        30,
        "a policy file that is broken, under load",
        "No call fails, the last good version stays in force whole, and the mistake is told while it is there",
        (
            "unit/policy/test_reload.py",
            "integration/admin/test_policy_versions.py::test_a_file_that_changes_governs_and_one_that_was_rolled_back_does_not",
        ),
        ("test_process.py::test_broken_policies_change_nothing",),
    ),
    Rank(
        31,
        "retries that make an outage worse",
        "A dead provider gets the calls and a bounded share of retries until its breaker opens, then probes alone; the breaker's states follow one another as they should",
        (
            f"{OUTAGE}::test_agents_outlive_their_provider",
            f"{FALLBACKS}::test_an_outage_is_not_made_worse",
            f"{FALLBACKS}::test_callers_do_not_open_breakers",
            SENDING,
            f"{GOVERNANCE}::test_clients_at_once_get_exactly_as_many_probes",
            f"{REDIS}::test_eight_workers_get_as_many_probes_as_there_are",
        ),
        ("test_upstream.py::test_a_dead_provider_is_left_alone",),
    ),
    Rank(
        32,
        "every error of Redis by every rule",
        "Whatever it answers, nothing is sent that no rule could look at: 503 in time, and service again when it is well",
        (
            REDIS_FAILS,
            "chaos/test_false_redis.py",
        ),
        ("test_redis.py::test_every_error_of_redis_by_every_rule",),
    ),
    Rank(
        33,
        "smuggled requests and broken lines",
        "Two requests are never seen where one was sent; no id puts a line into a head or an event",
        (
            f"{BAD_INPUT}::test_headers_that_differ_only_in_an_underscore_are_refused",
            "integration/data_plane/test_connections.py",
            f"{BAD_INPUT}::test_hostile_run_names_are_refused",
            "security/test_smuggling.py",
            "security/test_smuggling_behind_proxies.py",
            "security/test_headers.py",
        ),
    ),
    Rank(
        34,
        "long runs",
        "Memory and open files do not grow with the number of requests, a third of which are left, fail or are refused",
        (
            "unit/stores/test_embedded_memory.py",
            "chaos/test_soak.py::test_three_thousand_mixed_requests",
        ),
        (
            "test_process.py::test_thousands_of_mixed_requests",
            "test_soak.py::test_two_hundred_thousand_mixed_requests",
        ),
    ),
    Rank(
        35,
        "nonsense from a provider",
        "HTML, lies about lengths, endless lines, redirects and broken events are an error in the surface's grammar, in bounded memory; no credential follows a redirect",
        (
            f"{TRANSPORT}::test_garbage_instead_of_a_head",
            f"{TRANSPORT}::test_garbage_instead_of_a_chunk",
            f"{TRANSPORT}::test_read_stops_at_its_limit",
            f"{TRANSPORT}::test_redirects_are_returned_and_never_followed",
            f"{TRANSPARENCY}::test_the_providers_headers_come_back_without_its_cookies_and_retry_advice",
        ),
        ("test_upstream.py::test_nonsense_from_a_provider_harms_nobody",),
    ),
    Rank(
        36,
        "stand-ins for personal data",
        "Injective, stable over turns, restored always, and nobody else's",
        ("unit/screening/test_vault.py", "integration/screening/test_round_trip.py"),
    ),
    Rank(
        37,
        "what is changed in passing",
        "With all guards quiet, bodies and streams are the provider's, byte for byte",
        (
            TRANSPARENCY,
            "integration/data_plane/test_recorded.py",
            "unit/screening/test_stream.py::test_quiet_streams_leave_byte_for_byte",
        ),
    ),
    Rank(
        38,
        "hostile keys, ids and model names",
        "Two ids never share a key of the store, leave its slot or make a metric of their own",
        (
            f"{REDIS}::test_hostile_ids_share_neither_a_key_nor_leave_the_slot",
            f"{REDIS}::test_runs_with_hostile_names_are_told_apart",
            "unit/rules/test_budgets.py::test_hostile_ids_never_share_a_counter",
            f"{BAD_INPUT}::test_hostile_run_names_are_refused",
            "integration/test_metrics.py::test_hostile_names_make_no_series",
            "integration/admin/test_access.py::test_hostile_ids_are_ids_that_do_not_exist",
        ),
    ),
    Rank(
        39,
        "a crowd after a restart",
        "The ledger is read once, whoever waits is told when to come back, and all are served soon",
        (
            f"{REDIS}::test_eight_workers_on_an_empty_database_read_the_ledger_once",
            f"{REDIS}::test_a_slow_ledger_keeps_callers_no_longer_than_told",
            f"{SENDING}::test_nobody_comes_back_as_a_herd",
        ),
        ("test_redis.py::test_a_crowd_after_a_restart",),
    ),
    Rank(
        40,
        "the audit log: full disk, forgery",
        "A full disk is a verdict by policy and loses no record; line ends in a field stay one record; each record changed, moved or removed is noticed",
        ("integration/ledger/test_audit.py", "integration/test_audit.py"),
        ("test_process.py::test_a_full_disk_and_a_forger",),
    ),
    Rank(
        41,
        "routes that nobody bills",
        "Each route is billed, declared free, or answered 404; background work and passed-on calls are billed when they end",
        (
            f"{BAD_INPUT}::test_every_other_path_is_unknown",
            f"{BAD_INPUT}::test_upgrades_are_answered_426",
            "integration/data_plane/test_passthrough.py",
            "integration/data_plane/test_provider_state.py",
            f"{SURFACES}::test_the_small_surfaces_pass_unchanged_at_their_price",
            "clients/test_other_endpoints.py",
        ),
    ),
    Rank(
        42,
        "Redis that fails over",
        "With Sentinel and on a Cluster a master that dies under load costs seconds and no cent; a planned failover and a "
        "slot that moves lose nothing; a demoted master is refused until it is promoted",
        (
            "integration/stores/test_redis_failover.py",
            "integration/stores/test_redis_deployments.py",
            f"{REDIS_FAILS}::test_a_demoted_master_is_refused_until_it_is_promoted",
            f"{REDIS_FAILS}::test_forgotten_scripts_are_given_again",
        ),
    ),
)
