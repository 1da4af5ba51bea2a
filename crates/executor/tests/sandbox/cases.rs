mod files;
mod lifetime;
mod mounts;
mod owners;
mod privileges;
mod program;
mod running;
mod within;

use crate::Verdict;
use crate::bed::Bed;

type Case = (&'static str, fn(&Bed) -> Verdict);

/// Names each function after its module.
macro_rules! cases {
    ($($module:ident: $($name:ident),+ $(,)?;)+) => {
        vec![$($((concat!(stringify!($module), "::", stringify!($name)), $module::$name as fn(&Bed) -> Verdict)),+),+]
    };
}

pub(crate) fn all() -> Vec<Case> {
    cases! {
        program: exit_codes_and_signals, environment_is_only_what_is_given, streams_are_told_apart,
            big_output_arrives_whole, output_comes_while_the_step_runs, missing_programs_are_127,
            what_cannot_be_run_is_126, path_is_searched_in_order, standard_input_is_empty,
            host_name_and_hosts, limits_are_set, nonsense_is_refused;
        privileges: root_has_dockers_capabilities, fewer_capabilities, users_have_none, another_user,
            no_new_privileges, namespaces_are_new, no_descriptors_leak, proc_is_masked, devices,
            filtered_calls, filtered_calls_by_number, network_none_has_loopback_only, abstract_sockets_are_fenced, pid_one_is_out_of_reach;
        files: changes_land_in_upper, umask_and_modes, lowers_are_stacked, many_lowers, too_many_lowers,
            whiteouts_and_opaque_directories, read_only_root, plain_directory_root, nothing_is_left_by_mounts,
            above_the_root_is_the_root, working_directory_stays_inside, working_directory_is_made, empty_root, odd_names,
            directories_named_with_odd_characters;
        mounts: binds_are_read_only_or_not, sources_stay_in_their_base, targets_stay_in_the_root,
            missing_targets_are_made_and_removed, tmpfs_has_its_options, secrets_touch_no_disk,
            layers_can_be_bound, discarded_changes, order_follows_depth, standard_links_are_refused,
            resolv_conf_link_is_not_followed_to_the_host, kernel_interfaces_cannot_be_mounted_over,
            whiteouts_of_standard_files;
        lifetime: leftovers_die_with_the_step, cancel_kills_everything, cancelled_before_the_start,
            a_killed_program_leaves_nothing, many_at_once, dropping_a_started_step_kills_it;
        owners: given_away, survive_renames_and_die_with_the_file, of_an_archive, step_user_is_everybody,
            identity_changes_are_told_back, file_capabilities, devices, read_only_places, of_threads_and_races,
            of_paths_below_a_changed_root, nothing_to_record_as_root;
        running: ports_are_forwarded, a_taken_port_is_passed_over, private_networks_are_private,
            only_loopback_is_forwarded, a_second_program, a_second_program_is_cancelled, a_second_program_comes_too_late,
            signals_reach_only_the_program;
        within: replies, failures, a_handler_sees_everything, big_replies_stream, an_abandoned_handler_ends;
    }
}
