use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use wbuild_executor::{
    CancelToken, Doing, ExecError, Finished, Forward, Network, Program, Running, Status, Step, User,
};

use crate::Verdict::{self, Passed, Skipped};
use crate::bed::Bed;

/// Echoes what each connection says, in capitals, until it is killed.
const SERVER: &str = "
import socket, threading
server = socket.create_server(('127.0.0.1', 8000))
print('listening', flush=True)
def serve(connection):
    while data := connection.recv(65536): connection.sendall(data.upper())
    connection.close()
while True: threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
";

fn forward(port: u16) -> Forward {
    Forward { host: SocketAddrV4::new(Ipv4Addr::LOCALHOST, port), guest: 8000 }
}

fn drain(running: Running, cancel: &CancelToken) -> (Result<Finished, ExecError>, String) {
    let mut out = Vec::new();
    let finished = running.wait(&mut |_, bytes| out.extend_from_slice(bytes), cancel);
    (finished, String::from_utf8(out).unwrap())
}

/// Runs `step` while `use_it` does something with it.
fn beside(bed: &Bed, step: &Step, use_it: impl FnOnce(&mut Running) + Send) {
    let cancel = CancelToken::new().unwrap();
    let mut running = bed.isolation.start(step).unwrap();
    use_it(&mut running);
    cancel.cancel();
    let (finished, _) = drain(running, &cancel);
    assert!(matches!(finished, Err(ExecError::Cancelled)), "{finished:?}");
}

fn connect(address: SocketAddrV4) -> TcpStream {
    // Until the program listens, connections are reset.
    let since = Instant::now();
    loop {
        let mut stream = TcpStream::connect(address).unwrap();
        let mut byte = [0];
        if stream.write_all(b"a").is_ok() && stream.read(&mut byte).is_ok_and(|length| length == 1) {
            assert_eq!(&byte, b"A");
            return stream;
        }
        assert!(since.elapsed() < Duration::from_secs(10), "nobody listens");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(super) fn ports_are_forwarded(bed: &Bed) -> Verdict {
    let Some(mut step) = bed.python(SERVER) else { return Skipped("needs python3".into()) };
    step.network = Network::Private { forward: vec![forward(0), forward(0)] };
    beside(bed, &step, |running| {
        let addresses = running.addresses().unwrap().to_vec();
        assert_eq!(addresses.len(), 2);
        for address in addresses {
            let mut streams: Vec<TcpStream> = (0..5).map(|_| connect(address)).collect();
            let big = vec![b'x'; 1_000_000];
            for stream in &mut streams {
                let (sent, mut writing) = (big.clone(), stream.try_clone().unwrap());
                let writer = std::thread::spawn(move || {
                    writing.write_all(&sent).unwrap();
                    writing.shutdown(std::net::Shutdown::Write).unwrap();
                });
                let mut got = Vec::new();
                stream.read_to_end(&mut got).unwrap();
                writer.join().unwrap();
                assert_eq!(got, vec![b'X'; 1_000_000]);
            }
        }
    });
    Passed
}

pub(super) fn a_taken_port_is_passed_over(bed: &Bed) -> Verdict {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut step = bed.step("sleep 3011");
    step.network = Network::Private { forward: vec![forward(port)] };
    beside(bed, &step, |running| {
        let address = running.addresses().unwrap()[0];
        assert!(address.port() > port);
        drop(TcpListener::bind(address).unwrap_err());
    });
    Passed
}

pub(super) fn private_networks_are_private(bed: &Bed) -> Verdict {
    let ours = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = ours.local_addr().unwrap().port();
    let script = format!("import socket; socket.create_connection(('127.0.0.1', {port}), 2)");
    let Some(mut step) = bed.python(&script) else { return Skipped("needs python3".into()) };
    step.network = Network::Private { forward: vec![forward(0)] };
    assert!(bed.run(&step).err.contains("ConnectionRefusedError"));
    // Where nothing listens inside, connections end at once.
    let mut step = bed.step("sleep 3012");
    step.network = Network::Private { forward: vec![forward(0)] };
    beside(bed, &step, |running| {
        let mut stream = TcpStream::connect(running.addresses().unwrap()[0]).unwrap();
        assert!(!matches!(stream.read(&mut [0]), Ok(1..)));
    });
    Passed
}

pub(super) fn only_loopback_is_forwarded(bed: &Bed) -> Verdict {
    let mut step = bed.step("true");
    let host = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
    step.network = Network::Private { forward: vec![Forward { host, guest: 80 }] };
    assert!(matches!(bed.try_run(&step), Err(ExecError::NotLoopback(_))));
    Passed
}

fn program(script: &str) -> Program {
    Program {
        argv: ["/bin/sh", "-c", script].map(Into::into).to_vec(),
        env: vec![("PATH".into(), "/bin:/usr/bin".into()), ("ONLY".into(), "this".into())],
        cwd: "/tmp".into(),
        user: User::default(),
    }
}

pub(super) fn a_second_program(bed: &Bed) -> Verdict {
    for network in [Network::None, Network::Host] {
        let mut step = bed.step("echo first > /tmp/mark; hostname > /dev/null; exec sleep 3013");
        step.hostname = "shared".into();
        step.network = network;
        beside(bed, &step, |running| {
            let entry = running.entry().unwrap();
            let script = "while ! test -e /tmp/mark; do sleep 0.1; done; cat mark /proc/sys/kernel/hostname; echo $ONLY; grep -c . /proc/net/dev
                grep CapBnd /proc/self/status; grep Seccomp: /proc/self/status; for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; done 2>/dev/null; echo err >&2; exit 3";
            let cancel = CancelToken::new().unwrap();
            let (finished, out) = drain(entry.start(&program(script)).unwrap(), &cancel);
            assert_eq!(finished.unwrap().status, Status::Exited(3));
            assert!(out.starts_with("first\nshared\nthis\n"), "{out}");
            assert!(
                out.contains("CapBnd:\t00000000a80425fb\nSeccomp:\t2\n") && out.contains("sleep 3013"),
                "{out}"
            );
            let missing = Program { argv: vec!["nothing".into()], ..program("") };
            let (finished, _) = drain(entry.start(&missing).unwrap(), &cancel);
            assert_eq!(finished.unwrap().status.code(), 127);
        });
    }
    Passed
}

pub(super) fn a_second_program_is_cancelled(bed: &Bed) -> Verdict {
    beside(bed, &bed.step("exec sleep 3014"), |running| {
        let entry = running.entry().unwrap();
        let cancel = CancelToken::new().unwrap();
        let second = entry.start(&program("sleep 3015 & sleep 3015")).unwrap();
        let other = cancel.clone();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            other.cancel();
        });
        let since = Instant::now();
        let (finished, _) = drain(second, &cancel);
        assert!(matches!(finished, Err(ExecError::Cancelled)), "{finished:?}");
        assert!(since.elapsed() < Duration::from_secs(5));
    });
    Passed
}

pub(super) fn a_second_program_comes_too_late(bed: &Bed) -> Verdict {
    let mut running = bed.isolation.start(&bed.step("true")).unwrap();
    let entry = running.entry().unwrap();
    let cancel = CancelToken::new().unwrap();
    drain(running, &cancel).0.unwrap();
    let late = entry.start(&program("true")).err();
    assert!(matches!(&late, Some(ExecError::Setup(failure)) if failure.doing == Doing::Join), "{late:?}");

    Passed
}

pub(super) fn signals_reach_only_the_program(bed: &Bed) -> Verdict {
    const TERM: i32 = 15;
    let script = "sh -c \"trap 'echo child' TERM; sleep 86417.25 & wait\" & trap 'echo program; exit 5' TERM; echo ready; wait";
    let mut running = bed.isolation.start(&bed.step(script)).unwrap();
    let entry = running.entry().unwrap();
    let mut out = Vec::new();
    let mut output = |_, bytes: &[u8]| {
        out.extend_from_slice(bytes);
        if out == b"ready\n" {
            assert!(entry.signal(TERM).unwrap());
        }
    };
    let finished = running.wait(&mut output, &CancelToken::new().unwrap()).unwrap();
    assert_eq!((finished.status, &*out), (Status::Exited(5), &b"ready\nprogram\n"[..]));
    assert!(!entry.signal(TERM).unwrap(), "it is over");
    assert!(matches!(entry.signal(0), Err(ExecError::Signal { signal: 0, .. })));
    Passed
}
