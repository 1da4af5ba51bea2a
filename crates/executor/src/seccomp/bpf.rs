//! The filters that seccompiler cannot express: a range of numbers, two answers in one program, a listener.

use seccompiler::{BpfProgram, sock_filter};

use super::allowed;

// linux/bpf_common.h and linux/seccomp.h
const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_GREATER: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K
const NUMBER: u32 = 0; // offset of `nr` in `seccomp_data`
const ARCHITECTURE: u32 = 4;
const ALLOW: u32 = 0x7fff_0000;
const USER_NOTIF: u32 = 0x7fc0_0000;
const ERRNO: u32 = 0x0005_0000;

#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xc000_00b7;

/// The lowest number of the x32 interface, which no image uses; on other architectures no call has such a number.
const X32: u32 = 0x4000_0000;

fn load(offset: u32) -> sock_filter {
    sock_filter { code: LOAD, jt: 0, jf: 0, k: offset }
}

/// Skips `over` instructions unless the value loaded is `k`.
fn unless_equal(k: u32, over: u8) -> sock_filter {
    sock_filter { code: JUMP_EQUAL, jt: 0, jf: over, k }
}

fn answer(k: u32) -> sock_filter {
    sock_filter { code: RETURN, jt: 0, jf: 0, k }
}

/// The low half of argument `index`, on a little-endian machine.
fn argument(index: u8) -> u32 {
    16 + 8 * u32::from(index)
}

/// `ENOSYS` for `clone3` and for what came after the newest call on the allow-list: a C library that probes for a new
/// call takes `EPERM` for the answer to the call itself. Must be installed after the allow-list, since of two equal
/// actions the kernel takes the one of the later filter.
pub(crate) fn newer() -> BpfProgram {
    let no_such_call = answer(ERRNO | libc::ENOSYS.cast_unsigned());
    vec![
        load(ARCHITECTURE),
        unless_equal(AUDIT_ARCH, 6),
        load(NUMBER),
        unless_equal(allowed::CLONE3, 1),
        no_such_call.clone(),
        sock_filter { code: JUMP_GREATER, jt: 0, jf: 2, k: allowed::NEWEST },
        sock_filter { code: JUMP_GREATER, jt: 1, jf: 0, k: X32 - 1 },
        no_such_call,
        answer(ALLOW),
    ]
}

/// The calls that a supervisor answers, see [`crate::ownership`].
pub(crate) fn notify() -> BpfProgram {
    const MASK: u32 = libc::S_IFMT;
    // A foreign architecture is killed by the allow-list; here it only must not be mistaken for ours.
    let mut program = vec![
        load(ARCHITECTURE),
        sock_filter { code: JUMP_EQUAL, jt: 1, jf: 0, k: AUDIT_ARCH },
        answer(ALLOW),
        load(NUMBER),
    ];
    // Special files only: ordinary files, fifos and sockets can be made without privileges.
    for (number, mode) in allowed::MAKES_NODES {
        program.extend([
            unless_equal(number, 6),
            load(argument(mode)),
            sock_filter { code: AND, jt: 0, jf: 0, k: MASK },
            sock_filter { code: JUMP_EQUAL, jt: 1, jf: 0, k: libc::S_IFCHR },
            sock_filter { code: JUMP_EQUAL, jt: 0, jf: 1, k: libc::S_IFBLK },
            answer(USER_NOTIF),
            answer(ALLOW),
        ]);
    }
    for number in allowed::OWNERSHIP {
        program.extend([unless_equal(number, 1), answer(USER_NOTIF)]);
    }
    program.push(answer(ALLOW));
    program
}
