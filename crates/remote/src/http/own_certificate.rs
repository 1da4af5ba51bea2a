//! Servers that show a certificate which is trusted itself, and not only signed by one that is: what `openssl req -x509` makes,
//! and what registries are often set up with. It is an authority's by its form, which is why the usual check refuses it.

use std::sync::Arc;
use std::time::Duration;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// Checks as usual; a certificate that is trusted itself needs nobody's signature then, but the right name and time.
#[derive(Debug)]
pub(crate) struct OrOwnCertificate {
    pub(crate) usual: Arc<WebPkiServerVerifier>,
    pub(crate) trusted: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for OrOwnCertificate {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let refused = match self.usual.verify_server_cert(own, others, name, ocsp, now) {
            Ok(verified) => return Ok(verified),
            Err(refused) => refused,
        };
        if !self.trusted.iter().any(|trusted| trusted == own) {
            return Err(refused);
        }
        verify_server_name(&ParsedCertificate::try_from(own)?, name)?;
        let bad = || Error::InvalidCertificate(CertificateError::BadEncoding);
        let (from, until) = validity(own).ok_or_else(bad)?;
        let at = |seconds: i64| {
            UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(seconds).unwrap_or_default()))
        };
        let (not_before, not_after) = (at(from), at(until));
        let wrong = match now.as_secs() {
            seconds if seconds < not_before.as_secs() => {
                CertificateError::NotValidYetContext { time: now, not_before }
            }
            seconds if seconds > not_after.as_secs() => {
                CertificateError::ExpiredContext { time: now, not_after }
            }
            _ => return Ok(ServerCertVerified::assertion()),
        };
        Err(Error::InvalidCertificate(wrong))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

/// From when until when a certificate is valid, in seconds since the epoch (RFC 5280, 4.1).
fn validity(certificate: &[u8]) -> Option<(i64, i64)> {
    let (_, signed, _) = element(certificate)?;
    let (_, mut fields, _) = element(signed)?;
    if fields.first() == Some(&VERSION) {
        (_, _, fields) = element(fields)?;
    }
    // Number, algorithm, issuer.
    for _ in 0..3 {
        (_, _, fields) = element(fields)?;
    }
    let (kind, times, _) = element(fields)?;
    let (first, from, rest) = element(times)?;
    let (second, until, _) = element(rest)?;
    (kind == SEQUENCE).then_some((seconds(first, from)?, seconds(second, until)?))
}

/// The first element of DER: its tag, what is in it, and what follows.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], rest) = der.split_first_chunk()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 => (usize::from(*rest.first()?), rest.get(1..)?),
        0x82 => {
            let (bytes, rest) = rest.split_first_chunk()?;
            (usize::from(u16::from_be_bytes(*bytes)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// `YYMMDDhhmmssZ`, or with four digits of the year.
fn seconds(tag: u8, time: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(time).ok()?.strip_suffix('Z')?;
    let (year, rest) = text.split_at_checked(match tag {
        UTC_TIME => 2,
        GENERALIZED_TIME => 4,
        _ => return None,
    })?;
    let digits = rest.len() == 10 && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = |at: usize| rest.get(at..at + 2)?.parse::<i8>().ok();
    let year: i16 = year.parse().ok().filter(|_| digits)?;
    let year = match (tag, year) {
        (UTC_TIME, 0..50) => 2000 + year,
        (UTC_TIME, _) => 1900 + year,
        _ => year,
    };
    let time = DateTime::new(year, number(0)?, number(2)?, number(4)?, number(6)?, number(8)?, 0).ok()?;
    Some(TimeZone::UTC.to_timestamp(time).ok()?.as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_certificates() {
        assert_eq!(seconds(UTC_TIME, b"700101000001Z"), Some(1));
        assert_eq!(seconds(UTC_TIME, b"491231235959Z"), Some(2_524_607_999));
        assert_eq!(seconds(GENERALIZED_TIME, b"20500101000000Z"), Some(2_524_608_000));
        for wrong in [&b"700101000001"[..], b"7001010000Z", b"70x101000001Z", b"701301000001Z", b"Z", b""] {
            assert_eq!(seconds(UTC_TIME, wrong), None);
        }
        assert_eq!(seconds(4, b"700101000001Z"), None);
    }

    proptest::proptest! {
        #[test]
        fn any_certificate_has_an_end(bytes in proptest::collection::vec(0_u8..=255, 0..300)) {
            let _ = validity(&bytes);
        }
    }
}
