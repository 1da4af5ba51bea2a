use wbuild_executor::{CapabilitySet, Identity, Network, Procfs, User};

use crate::Verdict::{self, Passed, Skipped};
use crate::bed::Bed;

fn status(out: &str, field: &str) -> String {
    let prefix = format!("{field}:");
    let line = out.lines().find_map(|line| line.strip_prefix(&prefix));
    line.unwrap_or_else(|| panic!("no {field} in {out}")).trim().to_owned()
}

pub(super) fn root_has_dockers_capabilities(bed: &Bed) -> Verdict {
    let mut step = bed.step("");
    step.argv = vec!["cat".into(), "/proc/self/status".into()];
    let out = bed.run(&step).ok().out;
    for (field, value) in [
        ("CapBnd", "00000000a80425fb"),
        ("CapEff", "00000000a80425fb"),
        ("CapPrm", "00000000a80425fb"),
        ("CapInh", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
        ("NoNewPrivs", "0"),
        ("Seccomp", "2"),
        ("Uid", "0\t0\t0\t0"),
        ("Gid", "0\t0\t0\t0"),
    ] {
        assert_eq!(status(&out, field), value, "{field}");
    }
    // What is ignored stays ignored over exec: a program expects nothing to be.
    assert_eq!(status(&out, "SigIgn"), "0000000000000000");
    assert_eq!(status(&out, "SigBlk"), "0000000000000000");
    Passed
}

pub(super) fn fewer_capabilities(bed: &Bed) -> Verdict {
    let mut step = bed.step("cat /proc/self/status");
    step.privileges.capabilities = CapabilitySet::NONE;
    let out = bed.run(&step).ok().out;
    assert_eq!(status(&out, "CapBnd"), "0000000000000000");
    assert_eq!(status(&out, "CapEff"), "0000000000000000");
    Passed
}

pub(super) fn users_have_none(bed: &Bed) -> Verdict {
    let mut step = bed.step("cat /proc/self/status");
    step.user = User::new(1001, 1001);
    let out = bed.run(&step).ok().out;
    assert_eq!(status(&out, "CapEff"), "0000000000000000");
    assert_eq!(status(&out, "CapPrm"), "0000000000000000");
    assert_eq!(status(&out, "CapBnd"), "00000000a80425fb");
    assert_eq!(status(&out, "Uid"), "1001\t1001\t1001\t1001");
    Passed
}

pub(super) fn another_user(bed: &Bed) -> Verdict {
    let mut step = bed.step("id -u; id -g; echo mine > /tmp/file; stat -c %u:%g /tmp/file; pwd");
    step.user = User { uid: 1001, gid: 1002, groups: vec![1003, 1004] };
    step.cwd = "/tmp".into();
    assert_eq!(bed.run(&step).ok().out, "1001\n1002\n1001:1002\n/tmp\n");
    if bed.isolation.identity() == Identity::Root {
        step.argv = ["/bin/sh", "-c", "id -G; touch /etc/x"].map(Into::into).to_vec();
        step.root = bed.root(&[]);
        let ran = bed.run(&step);
        assert_eq!(ran.out, "1002 1003 1004\n");
        assert!(!ran.finished.status.success(), "a user may write to /etc");
    }
    Passed
}

pub(super) fn no_new_privileges(bed: &Bed) -> Verdict {
    let mut step = bed.step("cat /proc/self/status");
    step.privileges.no_new_privileges = true;
    assert_eq!(status(&bed.run(&step).ok().out, "NoNewPrivs"), "1");
    Passed
}

pub(super) fn namespaces_are_new(bed: &Bed) -> Verdict {
    let out = bed.sh("for n in mnt pid ipc uts cgroup net user; do echo $n $(readlink /proc/self/ns/$n); done; ls /proc").out;
    for name in ["mnt", "pid", "ipc", "uts", "cgroup", "net", "user"] {
        let ours = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        let shared = out.contains(&format!("{name} {}\n", ours.display()));
        assert_eq!(shared, name == "user" && bed.isolation.identity() == Identity::Root, "{name}");
    }
    if bed.isolation.procfs() == Procfs::Surrounding {
        return Passed;
    }
    let processes = out.lines().filter(|line| line.bytes().all(|byte| byte.is_ascii_digit())).count();
    assert!(processes <= 4, "{out}");
    Passed
}

pub(super) fn no_descriptors_leak(bed: &Bed) -> Verdict {
    // One that stays open over exec, as a careless parent of wbuild would leave it.
    let leaked = std::fs::File::open("/").unwrap();
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
    let out = bed.sh("ls /proc/self/fd; readlink /proc/self/fd/1; readlink /proc/self/fd/2").out;
    let mut numbers: Vec<&str> = out.lines().filter(|line| line.len() <= 3).collect();
    // The directory that `ls` itself reads.
    assert_eq!(numbers.pop(), Some("3"));
    assert_eq!(numbers, ["0", "1", "2"]);
    assert_eq!(out.matches("pipe:").count(), 2);
    Passed
}

pub(super) fn proc_is_masked(bed: &Bed) -> Verdict {
    let ran = bed.sh(
        "for f in kcore keys key-users timer_list sched_debug interrupts latency_stats; do
           test -e /proc/$f || continue; test -c /proc/$f || echo readable $f; done
         for d in /proc/acpi /proc/scsi /proc/asound /sys/firmware /sys/devices/virtual/powercap; do
           test -d $d || continue; test -z \"$(ls -A $d)\" || echo listed $d; done
         for f in /proc/sysrq-trigger /proc/sys/kernel/core_pattern /proc/sys/vm/drop_caches /proc/sys/kernel/hostname \
             /proc/irq/default_smp_affinity /sys/kernel/mm/ksm/run; do
           test -e $f || continue; ( : >> $f ) 2>/dev/null && echo writable $f; done
         for d in /sys /proc /sys/fs/cgroup /proc/bus; do test -d $d || continue; mkdir $d/x 2>/dev/null && echo made in $d; done
         echo done",
    );
    assert_eq!(ran.out, "done\n");
    Passed
}

pub(super) fn devices(bed: &Bed) -> Verdict {
    let ran = bed.sh(
        "ls /dev; for d in null zero full random urandom; do test -c /dev/$d && test -r /dev/$d || echo no $d; done
         head -c 3 /dev/zero | wc -c; echo x > /dev/null; echo y 2>/dev/null > /dev/full || echo full
         test -d /dev/pts -a -d /dev/shm -a -L /dev/ptmx && for n in fd stdin stdout stderr; do readlink /dev/$n; done
         echo a > /dev/shm/a && echo shm; echo out > /dev/stdout; echo err > /dev/stderr",
    );
    let names = "fd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n";
    let rest = "3\nfull\n/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\nshm\nout\n";
    assert_eq!(ran.out, format!("{names}{rest}"));
    assert!(ran.err.ends_with("err\n"));
    assert!(!ran.upper.join("dev").exists());
    // Nodes that a step makes are dead, also for real root: no disk of the host can be read.
    if bed.isolation.identity() == Identity::Root {
        let ran = bed.sh(
            "mknod /disk b 254 0 && (: < /disk) 2>&1; mknod /dev/mem2 c 1 1 && (: < /dev/mem2) 2>&1; true",
        );
        assert_eq!(ran.out.to_lowercase().matches("permission denied").count(), 2, "{}", ran.out);
    }
    Passed
}

pub(super) fn filtered_calls(bed: &Bed) -> Verdict {
    if !bed.has_busybox() {
        return Skipped("needs busybox".into());
    }
    let ran = bed.sh(
        "mount -t tmpfs none /tmp 2>&1; unshare -m true 2>&1; unshare -r true 2>&1; pivot_root / /tmp 2>&1
         mount --bind / /tmp 2>&1; nsenter -t 1 -m true 2>&1; chroot / /bin/echo chroot works; hostname other 2>&1
         swapon /x 2>&1; insmod /x 2>&1; date -s 2000-01-01 2>&1 >/dev/null; true",
    );
    let refused = ran.out.to_lowercase();
    let lines: Vec<&str> = refused.lines().collect();
    assert!(lines.contains(&"chroot works"), "{refused}");
    for line in lines.iter().filter(|line| !line.contains("chroot works")) {
        let known = ["not permitted", "permission denied", "no such file", "can't open"];
        assert!(known.iter().any(|answer| line.contains(answer)), "{line}");
    }
    assert!(lines.len() >= 9, "{refused}");
    Passed
}

pub(super) fn filtered_calls_by_number(bed: &Bed) -> Verdict {
    let script = "
import ctypes, os, socket
libc = ctypes.CDLL(None, use_errno=True)
def call(name, number, *arguments):
    result = libc.syscall(number, *arguments)
    print(name, 'ok' if result >= 0 else os.strerror(ctypes.get_errno()))
call('io_uring', 425, 1, 0)
call('userfaultfd', 323, 0)
call('bpf', 321, 0, 0, 0)
call('keyctl', 250, 0, 0)
call('clone3', 435, 0, 0)
call('newer', 467, 0)
call('clone newuser', 56, 0x10000000 | 17, 0, 0, 0, 0)
for family in (38, 40, 31):
    try: socket.socket(family, socket.SOCK_DGRAM); print('socket ok')
    except OSError as error: print('socket', error.strerror)
print(socket.socket(socket.AF_INET6, socket.SOCK_STREAM).family)
";
    let Some(step) = bed.python(script) else { return Skipped("needs python3".into()) };
    if !cfg!(target_arch = "x86_64") {
        return Skipped("the numbers are those of x86-64".into());
    }
    let ran = bed.run(&step).ok();
    let expected = "io_uring Operation not permitted\nuserfaultfd Operation not permitted\n\
        bpf Operation not permitted\nkeyctl Operation not permitted\nclone3 Function not implemented\n\
        newer Function not implemented\nclone newuser Operation not permitted\n\
        socket Operation not permitted\nsocket Operation not permitted\nsocket Operation not permitted\n10\n";
    assert_eq!(ran.out.replace("AddressFamily.AF_INET6", "10"), expected);
    Passed
}

pub(super) fn network_none_has_loopback_only(bed: &Bed) -> Verdict {
    let out = bed.sh("cat /proc/net/dev; cat /etc/resolv.conf").out;
    let names: Vec<&str> =
        out.lines().filter_map(|line| line.split_once(':').map(|(name, _)| name.trim())).collect();
    assert_eq!(names, ["lo"]);
    // And it can be talked over.
    let script = "
import socket
server = socket.create_server(('127.0.0.1', 7000))
client = socket.create_connection(('127.0.0.1', 7000))
client.sendall(b'hello'); client.close()
print(server.accept()[0].recv(100))
";
    if let Some(step) = bed.python(script) {
        assert_eq!(bed.run(&step).ok().out, "b'hello'\n");
    }
    Passed
}

pub(super) fn abstract_sockets_are_fenced(bed: &Bed) -> Verdict {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixListener};
    if bed.machine.landlock.is_none_or(|abi| abi < 6) {
        return Skipped("landlock has no scopes here".into());
    }
    let name = format!("wbuild-test-{}", std::process::id());
    let _listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let script = format!("import socket\ns = socket.socket(socket.AF_UNIX)\ns.connect('\\0{name}')");
    let Some(mut step) = bed.python(&script) else { return Skipped("needs python3".into()) };
    step.network = Network::Host;
    let ran = bed.run(&step);
    assert!(ran.err.contains("PermissionError"), "{}", ran.err);
    Passed
}

pub(super) fn pid_one_is_out_of_reach(bed: &Bed) -> Verdict {
    if bed.isolation.procfs() == Procfs::Surrounding {
        return Skipped("the first process in /proc is not ours here".into());
    }
    let ran = bed.sh(
        "cat /proc/1/environ 2>/dev/null && echo environ; readlink /proc/1/exe 2>/dev/null && echo exe
         for f in /proc/1/fd/*; do readlink $f 2>/dev/null; done; readlink /proc/1/root /proc/1/cwd 2>/dev/null
         ( : < /proc/1/mem ) 2>/dev/null && echo mem
         cat /proc/1/comm; kill -9 1; kill -TERM 1; echo alive",
    );
    assert_eq!(ran.out, "wbuild-init\nalive\n");
    Passed
}
