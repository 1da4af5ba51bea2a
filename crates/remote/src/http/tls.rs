use std::fmt;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::error::HttpError;
use super::own_certificate::OrOwnCertificate;

/// How one host is trusted, and how it is told who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostTls {
    /// Certificate authorities that are trusted besides, in PEM.
    pub roots: Vec<u8>,
    /// Shown to the host if it asks for it.
    pub identity: Option<ClientIdentity>,
    /// Whatever certificate it shows is taken: nobody knows who it is.
    pub unverified: bool,
}

/// A certificate of this side, with its key.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientIdentity {
    /// The certificates, own one first, in PEM.
    pub certificates: Vec<u8>,
    /// The private key, in PEM. Shown nowhere.
    pub key: Vec<u8>,
}

impl fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientIdentity").finish_non_exhaustive()
    }
}

/// What a connection to a host of these rules begins with.
pub(crate) fn config(
    provider: Arc<CryptoProvider>,
    roots: &[u8],
    host: Option<&HostTls>,
) -> Result<ClientConfig, HttpError> {
    let setup = |why: String| HttpError::Setup { why };
    let mut store = RootCertStore::empty();
    // What cannot be read of a bundle is trusted less, not more.
    let besides = host.map_or(&[][..], |host| &host.roots);
    let trusted: Vec<_> =
        [roots, besides].into_iter().flat_map(CertificateDer::pem_slice_iter).flatten().collect();
    store.add_parsable_certificates(trusted.iter().cloned());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| setup(error.to_string()))?;
    let builder = match host.is_some_and(|host| host.unverified) {
        true => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider))),
        // Nobody is trusted.
        false if store.is_empty() => builder.with_root_certificates(store),
        false => {
            let usual = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider);
            let usual = usual.build().map_err(|error| setup(error.to_string()))?;
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(OrOwnCertificate { usual, trusted }))
        }
    };
    let Some(identity) = host.and_then(|host| host.identity.as_ref()) else {
        return Ok(builder.with_no_client_auth());
    };
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&identity.certificates).flatten().collect();
    let key = PrivateKeyDer::from_pem_slice(&identity.key)
        .map_err(|_| setup("the key of a client certificate is no private key in PEM".to_owned()))?;
    builder
        .with_client_auth_cert(certificates, key)
        .map_err(|error| setup(format!("a client certificate is not usable: {error}")))
}

/// Takes every certificate, but not a handshake that was tampered with.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
