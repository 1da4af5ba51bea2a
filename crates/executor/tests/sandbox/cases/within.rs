use std::io::Read as _;

use wbuild_executor::WithinError;

use crate::Verdict::{self, Passed};
use crate::bed::Bed;

pub(super) fn replies(bed: &Bed) -> Verdict {
    assert_eq!(bed.isolation.within("echo", b"").unwrap(), b"");
    // More than the pipes and sockets between hold: the handler answers while it is still asked.
    let big: Vec<u8> = (0..5_000_000_u32).map(|number| number as u8).collect();
    assert_eq!(bed.isolation.within("echo", &big).unwrap(), big);
    Passed
}

pub(super) fn failures(bed: &Bed) -> Verdict {
    let unknown = bed.isolation.within("nobody", b"");
    assert!(matches!(&unknown, Err(WithinError::Unknown(name)) if name == "nobody"), "{unknown:?}");
    let failed = bed.isolation.within("fail", &[0; 1_000_000]);
    assert!(matches!(&failed, Err(WithinError::Handler(why)) if why == "it was not to be"), "{failed:?}");
    Passed
}

pub(super) fn a_handler_sees_everything(bed: &Bed) -> Verdict {
    let ran = bed.sh("mkdir -p /closed/deep; echo secret > /closed/deep/file; chmod 0 /closed/deep/file /closed/deep /closed");
    let path = ran.upper.join("closed/deep/file");
    let read = bed.isolation.within("read", path.to_str().unwrap().as_bytes()).unwrap();
    assert_eq!(read, b"secret\n");
    bed.isolation.within("remove", ran.upper.join("closed").to_str().unwrap().as_bytes()).unwrap();
    assert!(!ran.upper.join("closed").exists());
    Passed
}

pub(super) fn big_replies_stream(bed: &Bed) -> Verdict {
    let mut call = bed.isolation.call("flood", Vec::new()).unwrap();
    let mut buffer = [0; 4096];
    call.read_exact(&mut buffer).unwrap();
    let rest = std::io::copy(&mut call, &mut std::io::sink()).unwrap();
    assert_eq!(rest + 4096, 64 << 20);
    call.finish().unwrap();
    // Not reading all of it is no reason to hang.
    bed.isolation.call("flood", Vec::new()).unwrap().finish().unwrap();
    Passed
}

pub(super) fn an_abandoned_handler_ends(bed: &Bed) -> Verdict {
    drop(bed.isolation.call("hang", Vec::new()).unwrap());
    drop(bed.isolation.call("flood", Vec::new()).unwrap());
    Passed
}
