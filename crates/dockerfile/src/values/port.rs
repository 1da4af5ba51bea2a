//! EXPOSE: `port[-port][/protocol]`, and the host parts that people write although they mean nothing there.

use std::fmt;
use std::net::IpAddr;

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// The default.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// One port of an image's configuration, printed as `80/tcp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// The number.
    pub number: u16,
    /// The protocol.
    pub protocol: Protocol,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        };
        write!(f, "{}/{protocol}", self.number)
    }
}

/// One word of EXPOSE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSpec {
    /// The first port.
    pub first: u16,
    /// The last port; the same unless it is a range.
    pub last: u16,
    /// The protocol.
    pub protocol: Protocol,
    /// The protocol was not written in lower case.
    pub odd_case: bool,
    /// An address or a port of the host was given; EXPOSE ignores both.
    pub names_host: bool,
}

impl PortSpec {
    /// The ports it stands for.
    pub fn ports(&self) -> impl Iterator<Item = Port> + use<> {
        let protocol = self.protocol;
        (self.first..=self.last).map(move |number| Port { number, protocol })
    }
}

/// A text that is no port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// Nothing before the protocol.
    #[error("invalid port: {text:?}: no port specified")]
    NoPort {
        /// The word.
        text: String,
    },
    /// Another protocol than tcp, udp and sctp.
    #[error("invalid port: {text:?}: invalid proto: {protocol}")]
    Protocol {
        /// The word.
        text: String,
        /// The protocol.
        protocol: String,
    },
    /// Not a number up to 65535, or a range that runs backwards.
    #[error("invalid containerPort: {port}")]
    Container {
        /// The port part.
        port: String,
    },
    /// The same of the host's port.
    #[error("invalid hostPort: {port}")]
    Host {
        /// The host's part.
        port: String,
    },
    /// Not an IP address.
    #[error("invalid IP address: {address}")]
    Address {
        /// The address part.
        address: String,
    },
    /// Two ranges of different length.
    #[error("invalid ranges specified for container and host Ports: {container} and {host}")]
    Ranges {
        /// The container's.
        container: String,
        /// The host's.
        host: String,
    },
}

impl std::str::FromStr for PortSpec {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, PortError> {
        let (host, container) =
            text.rsplit_once(':').map_or(("", text), |(host, container)| (host, container));
        let (address, host_port) =
            host.rsplit_once(':').map_or(("", host), |(address, port)| (address, port));
        let (port, protocol) = container.split_once('/').unwrap_or((container, ""));
        if port.is_empty() {
            return Err(PortError::NoPort { text: text.to_owned() });
        }
        let lower = protocol.to_lowercase();
        let kind = match lower.as_str() {
            "" | "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            _ => return Err(PortError::Protocol { text: text.to_owned(), protocol: protocol.to_owned() }),
        };
        let bare = address.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(address);
        if !bare.is_empty() && bare.parse::<IpAddr>().is_err() {
            return Err(PortError::Address { address: address.to_owned() });
        }
        let Some((first, last)) = range(port) else {
            return Err(PortError::Container { port: port.to_owned() });
        };
        if !host_port.is_empty() {
            let Some((host_first, host_last)) = range(host_port) else {
                return Err(PortError::Host { port: host_port.to_owned() });
            };
            if last - first != host_last - host_first && first != last {
                return Err(PortError::Ranges { container: port.to_owned(), host: host_port.to_owned() });
            }
        }
        Ok(Self { first, last, protocol: kind, odd_case: lower != protocol, names_host: !host.is_empty() })
    }
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(text)?, number(text)?),
    };
    (first <= last).then_some((first, last))
}

/// A decimal number; the sign that Go's parser takes is taken here too.
fn number(text: &str) -> Option<u16> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(text: &str) -> Vec<String> {
        text.parse::<PortSpec>().unwrap().ports().map(|port| port.to_string()).collect()
    }

    #[test]
    fn ports_ranges_and_hosts() {
        for (text, expected) in [
            ("80", vec!["80/tcp"]),
            ("80/TcP", vec!["80/tcp"]),
            ("1234-1236/udp", vec!["1234/udp", "1235/udp", "1236/udp"]),
            ("0.0.0.0:1234-1235:3333-3334/tcp", vec!["3333/tcp", "3334/tcp"]),
            ("[2001:4860:0:2001::68]::333", vec!["333/tcp"]),
            ("[::1]:80:80", vec!["80/tcp"]),
            ("2001:4860:0:2001::68::333", vec!["333/tcp"]),
            ("::1:80:80", vec!["80/tcp"]),
            ("::::80", vec!["80/tcp"]),
            ("8000-8010:80", vec!["80/tcp"]),
            ("65535/sctp", vec!["65535/sctp"]),
        ] {
            assert_eq!(ports(text), expected, "{text}");
        }
        for (text, message) in [
            ("", "invalid port: \"\": no port specified"),
            ("0.0.0.0:1234-1235:/tcp", "invalid port: \"0.0.0.0:1234-1235:/tcp\": no port specified"),
            ("localhost:1:1", "invalid IP address: localhost"),
            ("80/http", "invalid port: \"80/http\": invalid proto: http"),
            ("65536", "invalid containerPort: 65536"),
            ("90-80", "invalid containerPort: 90-80"),
            ("a:80", "invalid hostPort: a"),
            ("1-2:3-5", "invalid ranges specified for container and host Ports: 3-5 and 1-2"),
        ] {
            assert_eq!(text.parse::<PortSpec>().unwrap_err().to_string(), message, "{text}");
        }
    }
}
