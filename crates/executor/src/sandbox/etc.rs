//! The files of `/etc` that tell a step about its surroundings. Never part of its changes.

use std::fs;
use std::io::{self, Read as _};

use crate::failure::{Doing, Failure, While as _};
use crate::step::{Network, Step};

/// The names of the files, in `/etc`.
///
/// `/etc/hostname` is the image's, as in BuildKit: what a step writes there stays.
pub(crate) const NAMES: [&str; 2] = ["resolv.conf", "hosts"];

/// Far more than either file ever holds.
const MAX_BYTES: u64 = 1 << 20;

/// What the files hold.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Files {
    resolv_conf: String,
    hosts: String,
}

impl Files {
    /// The files for `step`, made from those of this machine.
    pub(crate) fn of_host(step: &Step) -> Result<Self, Failure> {
        Ok(Self::new(step, &read("/etc/resolv.conf")?, &read("/etc/hosts")?))
    }

    fn new(step: &Step, resolv_conf: &str, hosts: &str) -> Self {
        let shared = step.network == Network::Host;
        let mut text =
            format!("127.0.0.1\tlocalhost {}\n::1\tlocalhost ip6-localhost ip6-loopback\n", step.hostname);
        if shared {
            // Names that the machine's administrator gave to the outside world; its own names mean nothing inside.
            for line in hosts.lines().filter(|line| names_something_else(line)) {
                text.push_str(line.trim());
                text.push('\n');
            }
        }
        for host in &step.add_hosts {
            text.push_str(&format!("{}\t{}\n", host.address, host.name));
        }
        Self {
            // Without a network there is nobody to ask.
            resolv_conf: if shared { resolv_conf.to_owned() } else { String::new() },
            hosts: text,
        }
    }

    /// Name and content, in the order of [`NAMES`].
    pub(crate) fn files(&self) -> impl Iterator<Item = (&'static str, &[u8])> {
        NAMES.into_iter().zip([&self.resolv_conf, &self.hosts].map(|text| text.as_bytes()))
    }
}

fn names_something_else(line: &str) -> bool {
    let line = line.split('#').next().unwrap_or_default().trim();
    match line.split_whitespace().next().map(str::parse::<std::net::IpAddr>) {
        Some(Ok(address)) => !address.is_loopback(),
        Some(Err(_)) | None => false,
    }
}

/// A machine without the file is a machine without names to tell.
fn read(path: &str) -> Result<String, Failure> {
    let mut text = Vec::new();
    match fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        file => {
            file.and_then(|file| file.take(MAX_BYTES).read_to_end(&mut text)).doing_to(Doing::Open, path)?
        }
    };
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::step::{Host, Root};

    const HOSTS: &str =
        "127.0.0.1 localhost box\n# 10.0.0.9 commented\n10.0.0.1 mirror.corp # ours\n::1 box\nnonsense\n";

    fn step(network: Network) -> Step {
        let mut step = Step::new(Root::Directory("/r".into()), ["true"]);
        step.hostname = "inside".into();
        step.add_hosts = vec![Host { name: "db".into(), address: [10, 1, 2, 3].into() }];
        step.network = network;
        step
    }

    #[test]
    fn the_host_network_brings_its_names() {
        let files = Files::new(&step(Network::Host), "nameserver 10.0.0.53\n", HOSTS);
        assert_eq!(files.resolv_conf, "nameserver 10.0.0.53\n");
        assert_eq!(
            files.hosts,
            "127.0.0.1\tlocalhost inside\n::1\tlocalhost ip6-localhost ip6-loopback\n10.0.0.1 mirror.corp # ours\n\
             10.1.2.3\tdb\n"
        );
    }

    #[test]
    fn without_a_network_nothing_of_the_machine_shows() {
        let files = Files::new(&step(Network::None), "nameserver 10.0.0.53\n", HOSTS);
        assert_eq!(files.resolv_conf, "");
        assert!(!files.hosts.contains("corp") && files.hosts.contains("db"));
    }
}
