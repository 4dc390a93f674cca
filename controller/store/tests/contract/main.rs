//! What every store promises, held against both back ends.
//!
//! Each promise is one function over a fresh store. For SQLite each is a test of
//! its own. For PostgreSQL one test starts one server, gives each promise its own
//! database in it and names all that were broken: a server per promise would cost
//! more than all promises together.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy sees tests only where #[test] stands; all of this is one"
)]

#[path = "../../../../tests/src/postgres.rs"]
#[expect(unreachable_pub, dead_code, reason = "shared with a crate where all of it is used")]
mod postgres;

mod batches;
mod bench;
mod certificates;
mod context;
mod durable;
mod gold;
mod hosts;
mod jobs;
mod model;
mod power;
mod race;
mod runs;
mod sessions;
mod snapshots;
mod upkeep;

use std::panic::AssertUnwindSafe;

use bench::Bench;
use futures_util::FutureExt as _;

macro_rules! promises {
    ($($module:ident { $($promise:ident,)+ })+) => {
        mod sqlite {
            $(mod $module {
                $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $promise() {
                    let bench = crate::Bench::sqlite().await;
                    crate::$module::$promise(&bench).await;
                })+
            })+
        }

        /// Runs every promise; the names of those that were broken.
        async fn broken_by_postgres(server: &postgres::Cluster) -> Vec<&'static str> {
            let mut broken = Vec::new();
            $($(
                let name = concat!(stringify!($module), "::", stringify!($promise));
                let bench = Bench::postgres(server, concat!(stringify!($module), "_", stringify!($promise))).await;
                let kept = AssertUnwindSafe($module::$promise(&bench)).catch_unwind().await;
                bench.store.close().await;
                if kept.is_err() {
                    broken.push(name);
                }
            )+)+
            broken
        }
    };
}

promises! {
    model {
        the_queue_does_what_its_model_says,
    }
    jobs {
        a_job_is_submitted_once_however_often_it_is_sent,
        what_waits_is_listed_to_be_counted,
        a_long_queue_hides_no_other,
        a_job_comes_after_others_until_they_have_succeeded,
        the_most_urgent_job_goes_first_and_age_counts,
        a_worker_gets_what_it_can_run_and_no_more_than_its_slots,
        a_job_is_stored_as_it_was_sent,
        a_report_of_an_old_attempt_is_refused,
        text_is_stored_in_order_and_read_from_anywhere,
        a_job_whose_worker_died_is_queued_again_unless_text_was_shown,
        a_deadline_expires_what_waits,
        metadata_only_wipes_the_text_at_the_end,
        a_failed_job_can_be_retried_by_a_person,
        every_change_of_state_leaves_an_event,
        cancelling_tells_whose_slot_is_to_be_freed,
        jobs_are_listed_page_by_page,
        jobs_are_counted_by_state,
    }
    race {
        thirty_two_claimers_get_each_job_once,
        two_assignments_of_one_job_end_in_one,
        one_of_many_schedulers_fires,
        one_of_many_enrolments_is_the_first,
        one_of_many_browsers_redeems_a_link,
        audit_entries_written_at_once_form_one_chain,
        one_of_many_controllers_leads,
    }
    durable {
        a_copy_is_the_whole_store_as_of_one_moment,
        what_was_not_committed_is_gone,
        connections_that_broke_while_idle_are_passed_over,
        a_reader_sees_one_moment,
        a_reader_cannot_write,
        a_second_opening_finds_everything,
        an_impossible_value_is_named_by_table_column_and_row,
        a_newer_schema_is_refused,
    }
    certificates {
        a_token_is_used_once_per_kind,
        a_revoked_token_stays_revoked_since_the_first_time,
        tokens_are_listed_newest_first,
        revoking_raises_the_epoch_once,
        revoking_a_host_leaves_people_alone,
        the_deny_list_forgets_what_has_ended_by_itself,
        the_audit_log_cannot_be_changed_and_shows_when_it_was,
        a_request_id_belongs_to_one_request,
    }
    gold {
        a_hundred_reservations_at_once_never_exceed_the_budget,
        a_reservation_counts_until_it_is_settled_and_the_cost_from_then_on,
        an_attempt_is_let_out_and_settled_once,
        what_nobody_settles_costs_the_most_that_it_could,
        what_left_long_ago_is_dropped_a_few_at_a_time_and_what_is_open_stays,
        spending_is_summed_by_asker_day_and_month,
    }
    context {
        documents_are_found_by_any_of_their_words,
        no_text_is_taken_for_syntax_of_a_search,
        a_generation_is_searched_once_it_is_whole_and_replaces_the_one_before,
        who_was_overtaken_can_fill_and_publish_no_more,
        what_is_known_of_a_source_says_how_fresh_it_is,
        what_was_put_before_a_job_stays_with_it,
        a_runbook_is_proposed_once_and_approved_as_it_was_read,
    }
    hosts {
        what_was_seen_of_a_host_only_grows,
        enrolling_and_draining_leave_each_other_alone,
        a_stale_leader_is_fenced_off,
        a_released_lead_is_free_at_once,
    }
    runs {
        a_run_is_started_once_however_often_it_is_asked_for,
        runs_of_one_backup_do_not_overlap,
        a_run_ends_once,
        a_lost_run_is_open_until_it_is_known,
        the_newest_verified_snapshot_is_by_its_moment_not_by_its_run,
        drills_are_listed_with_what_they_showed,
        a_schedule_fires_for_a_time_once,
        what_passed_while_paused_is_not_made_up_for,
    }
    snapshots {
        a_run_keeps_what_it_was_asked_for,
        a_snapshot_is_seen_once_and_its_order_stays,
        the_first_who_lets_a_brake_go_stands,
        the_last_scrub_of_a_repository_counts,
        signed_statements_only_grow,
        two_statements_of_one_place_end_in_one,
    }
    sessions {
        a_link_works_once_and_not_after_its_end,
        a_session_ends_by_idling_and_by_age,
        a_person_can_be_logged_out_everywhere,
    }
    power {
        a_boot_is_kept_as_it_goes_on,
        a_hold_replaces_the_one_before_and_can_be_let_go,
        fences_only_rise_and_the_newest_proof_counts,
        what_kept_a_host_awake_adds_up_by_day_and_reason,
        energy_adds_up_by_job_tier_and_day,
        old_days_and_boots_are_forgotten_and_open_boots_are_not,
    }
    batches {
        a_file_belongs_to_who_gave_it,
        each_line_of_a_batch_is_begun_and_ended_once,
        a_batch_that_has_ended_stays_as_it_is,
        old_batches_go_with_their_lines_and_open_ones_stay,
        what_a_key_has_used_is_added_up_by_day,
    }
    upkeep {
        a_job_is_dropped_sooner_when_that_was_asked_for,
        jobs_are_dropped_by_age_and_by_number_with_all_that_belongs_to_them,
        what_is_known_of_a_backup_is_never_dropped,
        certificates_and_tokens_are_dropped_after_their_end,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_keeps_every_promise() {
    let server =
        postgres::Cluster::start("store", std::path::Path::new(env!("CARGO_TARGET_TMPDIR")));
    let broken = broken_by_postgres(&server).await;
    assert!(broken.is_empty(), "PostgreSQL breaks: {broken:#?}");
}
