//! The system call filter of a sandbox.
//!
//! Three programs are stacked; the strictest answer wins. [`allowed`] is an allow-list after the example of Docker's
//! default profile, everything else is `EPERM`. [`newer`] answers `ENOSYS` to what is newer than that list, and to
//! `clone3`, so that C libraries fall back to what they did before. In [`crate::Identity::SingleId`],
//! [`notify`] hands the calls that change ownership to a supervisor.

mod allowed;
mod bpf;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

pub(crate) use bpf::{newer, notify};

#[cfg(target_arch = "x86_64")]
const ARCH: TargetArch = TargetArch::x86_64;
#[cfg(target_arch = "aarch64")]
const ARCH: TargetArch = TargetArch::aarch64;

/// The namespace flags of clone(2): a step makes no namespaces.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;

/// UNIX, INET, INET6, NETLINK, PACKET (which also needs `CAP_NET_RAW`): what programs use. Docker's list is longer;
/// most kernel escapes by socket came through families that no build needs (AF_ALG, AF_VSOCK, ...).
const SOCKET_FAMILIES: [u64; 5] = [1, 2, 10, 16, 17];

/// Linux, Linux with 32-bit uname, both without address randomisation, and asking.
const PERSONALITIES: [u64; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The allow-list.
pub(crate) fn allowed() -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: std::collections::BTreeMap<i64, Vec<SeccompRule>> =
        allowed::UNCONDITIONALLY.iter().map(|number| (*number, Vec::new())).collect();
    let one_of = |values: &[u64]| {
        values
            .iter()
            .map(|value| SeccompRule::new(vec![first_argument(SeccompCmpOp::Eq, *value)?]))
            .collect::<Result<Vec<_>, _>>()
    };
    rules.insert(libc::SYS_socket, one_of(&SOCKET_FAMILIES)?);
    rules.insert(libc::SYS_personality, one_of(&PERSONALITIES)?);
    let no_namespaces = SeccompRule::new(vec![first_argument(SeccompCmpOp::MaskedEq(CLONE_NAMESPACES), 0)?])?;
    rules.insert(libc::SYS_clone, vec![no_namespaces]);
    let refuse = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    SeccompFilter::new(rules, refuse, SeccompAction::Allow, ARCH)?.try_into()
}

/// Only the low half is compared: these arguments are 32 bits wide, and the kernel ignores the rest.
fn first_argument(operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(0, SeccompCmpArgLen::Dword, operator, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_compile_and_fit_the_kernel() {
        for program in [allowed().unwrap(), newer(), notify()] {
            assert!(program.len() < 4096, "{}", program.len());
        }
    }

    #[test]
    fn dangerous_calls_are_not_on_the_list() {
        for number in [
            libc::SYS_mount,
            libc::SYS_umount2,
            libc::SYS_pivot_root,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_bpf,
            libc::SYS_perf_event_open,
            libc::SYS_keyctl,
            libc::SYS_add_key,
            libc::SYS_request_key,
            libc::SYS_userfaultfd,
            libc::SYS_kexec_load,
            libc::SYS_init_module,
            libc::SYS_finit_module,
            libc::SYS_open_by_handle_at,
            libc::SYS_reboot,
            libc::SYS_swapon,
            libc::SYS_acct,
            libc::SYS_syslog,
            libc::SYS_settimeofday,
            libc::SYS_clock_settime,
            425, // io_uring_setup
            428, // open_tree
            429, // move_mount
            430, // fsopen
            442, // mount_setattr
        ] {
            assert!(!allowed::UNCONDITIONALLY.contains(&number), "{number}");
        }
    }
}
