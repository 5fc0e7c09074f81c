//! What every krane must do, whatever it runs instances on. The cases speak the
//! gRPC API alone; a [`harness::Harness`] says how a runtime is reached. Docker's
//! is in `docker.rs`, that of Kubernetes in `kubernetes.rs`; `external.rs` runs the
//! cases against a krane that runs already.

mod cases;
#[path = "../support/kubernetes/mod.rs"]
mod cluster;
mod docker;
mod external;
mod harness;
mod image;
mod kubernetes;
mod pulls;
#[path = "../support/mod.rs"]
mod servers;
mod world;

/// Calls the macro with every case: one list for all harnesses.
macro_rules! every_case {
    ($each:ident) => {
        $each! {
            lifecycle::a_deployment_is_created_read_and_deleted,
            lifecycle::applying_again_changes_nothing,
            lifecycle::what_was_deleted_is_made_again,
            lifecycle::a_delete_after_an_apply_that_was_given_up_leaves_nothing,
            lifecycle::scaling_only_adds_and_removes,
            lifecycle::a_change_makes_new_instances_while_some_are_ready,
            lifecycle::a_change_that_cannot_start_leaves_what_serves,
            lifecycle::limits_are_reported_as_the_runtime_has_them,
            lifecycle::twenty_replicas_get_ready,
            lifecycle::two_deployments_at_once_do_not_meet,
            lifecycle::a_watch_of_everything_begins_with_the_present_state,
            lifecycle::another_krane_takes_up_what_runs,
            failures::an_exit_before_ready_is_told_with_code_and_last_lines,
            failures::one_that_ends_after_it_was_ready_is_started_again,
            failures::one_that_needs_more_memory_than_it_may_have_says_so,
            failures::an_image_that_is_nowhere_is_named_and_leaves_nothing,
            failures::one_that_ignores_its_stop_signal_is_killed_after_its_grace,
            failures::the_stop_signal_is_the_one_asked_for,
            failures::requests_that_break_a_rule_are_refused_with_its_name,
            health::a_slow_start_is_told_and_waited_for,
            health::an_answer_of_500_is_not_ready,
            health::a_connection_is_enough_where_tcp_is_asked_for,
            health::another_port_is_asked_where_one_is_given,
            health::a_command_in_the_instance_decides,
            health::without_a_check_it_must_stay_up_for_a_moment,
            health::one_that_is_not_ready_within_its_start_period_is_ended,
            processes::each_process_has_its_own_command_replicas_port_and_limits,
            processes::a_process_is_scaled_without_touching_the_others,
            network::a_namespace_reaches_its_services_by_name_and_no_other_does,
            logs::all_instances_are_merged_and_selected,
            logs::following_shows_what_comes_until_the_deployment_is_deleted,
            logs::a_line_of_any_length_comes_in_bounded_parts,
            tasks::a_task_runs_once_and_is_joined_afterwards,
            tasks::a_task_that_runs_is_joined_from_its_first_line,
            tasks::a_task_that_was_not_started_is_not_joined,
            tasks::a_task_ends_at_its_time_limit,
            tasks::a_task_is_no_instance_and_goes_with_its_deployment,
            tasks::a_deleted_task_runs_again,
            tasks::a_task_outlives_its_caller_and_krane,
            tasks::a_command_that_does_not_exist_ends_with_an_error,
            exec::input_and_output_pass_and_the_exit_code_comes_last,
            exec::a_terminal_has_the_size_it_is_given,
            exec::a_command_ends_when_nobody_reads_it,
            exec::where_nothing_runs_it_is_refused,
            timing::an_exit_is_reported_at_once,
            timing::readiness_is_reported_at_once,
        }
    };
}
pub(crate) use every_case;
