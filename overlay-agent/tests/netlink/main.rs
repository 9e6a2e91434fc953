//! The netlink module, and the firewall module that needs its notifications, on the real kernel.
//!
//! Every case runs in network namespaces it makes itself and that are gone with it; the machine's own configuration is neither read nor
//! changed. That needs root: without it each case is reported as ignored, with the reason.

mod events;
mod firewall;
mod host;
mod neighbours;
mod overlay;
mod routes;
mod sandbox;
mod underlay;
mod veth;

use libtest_mimic::{Arguments, Trial};
use std::process::ExitCode;

/// Lists cases by path; each becomes a trial named after its module and function.
macro_rules! cases {
    ($($module:ident :: $case:ident),+ $(,)?) => {
        vec![$((concat!(stringify!($module), "::", stringify!($case)), (|| Box::pin($module::$case())) as sandbox::Case)),+]
    };
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    // A namespace is entered by one thread and inherited by those it starts: this has to come before the first of them.
    let entered = sandbox::enter();
    let cases = cases![
        overlay::is_made_as_asked_and_read_back,
        overlay::mtu_and_mac_are_updated_in_place,
        overlay::a_device_that_differs_is_not_ours_to_keep,
        overlay::a_taken_port_names_the_culprit,
        overlay::an_existing_device_is_left_alone,
        routes::are_read_back_exactly_and_removed,
        routes::past_the_overlay_device_replace_and_are_replaced,
        routes::of_others_are_never_replaced_or_removed,
        routes::of_a_form_we_do_not_make_are_strays,
        routes::need_the_overlay_device_and_its_address,
        neighbours::managed_is_resolved_kept_and_follows_a_new_mac,
        neighbours::an_existing_entry_keeps_its_mac,
        neighbours::a_permanent_entry_is_left_alone,
        neighbours::only_ours_are_removed,
        neighbours::without_an_answer_there_is_no_mac,
        underlay::next_hops_are_the_kernels,
        underlay::routes_that_lead_nowhere_leave_the_peer_out,
        underlay::the_device_is_found_or_the_error_says_why_not,
        underlay::five_thousand_peers,
        events::say_what_changed,
        events::are_silent_while_a_managed_neighbour_is_probed,
        events::lost_notifications_are_an_overrun,
        events::say_when_the_packet_filter_changed,
        firewall::the_table_is_written_once_and_found_by_the_next_agent,
        firewall::whatever_is_done_to_the_table_is_undone,
        firewall::pods_pass_forward_where_its_policy_is_to_drop,
        firewall::what_cannot_be_mended_is_named,
        firewall::removal_leaves_the_rules_as_they_were,
        firewall::a_missing_program_is_a_problem_that_names_its_package,
        veth::a_pod_reaches_its_node_and_back_without_arp,
        veth::a_failed_wire_leaves_nothing,
        veth::removal_is_idempotent_and_takes_only_veths,
        veth::pod_routes_fall_with_the_source_address_and_are_restored,
        veth::a_filter_is_found_by_priority_and_handle,
        host::namespaces_are_entered_by_their_own_thread,
        host::sysctls_are_those_of_the_callers_namespace,
        host::a_read_only_sysctl_that_is_right_is_fine,
        host::a_broken_connection_is_an_error,
    ];
    let trials = cases.into_iter().map(|(name, case)| {
        let entered = entered.clone();
        Trial::ignorable_test(name, move || sandbox::run(case, &entered))
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}
