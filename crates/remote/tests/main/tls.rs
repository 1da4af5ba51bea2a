use std::net::TcpStream;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use wbuild_remote::{HttpClient, HttpError, HttpOptions, HttpUrl, Request};
use wbuild_report::Hint;
use wbuild_testkit::{HttpServer, Reply, Stream};

use crate::{Waits, watched};

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A server with a certificate of `authority` for the name `localhost`.
fn server(authority: &CertifiedIssuer<'static, KeyPair>) -> HttpServer {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    let config = Arc::new(config);
    let accept = move |stream: TcpStream| {
        let connection = ServerConnection::new(Arc::clone(&config)).map_err(std::io::Error::other)?;
        Ok(Box::new(StreamOwned::new(connection, stream)) as Box<dyn Stream>)
    };
    HttpServer::start_with(accept, |_| Reply::ok("hello")).unwrap()
}

fn fetch(url: &str, roots: Vec<u8>) -> Result<Vec<u8>, HttpError> {
    let client =
        HttpClient::new(HttpOptions { roots, waiting: Arc::new(Waits::default()), ..HttpOptions::default() });
    let request = Request::get(HttpUrl::parse(url).unwrap());
    watched(|watch| client.read(&request, 100, watch)).0.map(|(_, bytes)| bytes)
}

#[test]
fn a_private_authority_of_the_bundle_is_trusted_and_no_other() {
    let (ours, theirs) = (authority(), authority());
    let server = server(&ours);
    let url = format!("https://localhost:{}/", server.port());
    // A bundle can hold things that are no certificates.
    let bundle = format!("# a comment\n{}\n{}", theirs.pem(), ours.pem());
    assert_eq!(fetch(&url, bundle.into_bytes()).unwrap(), b"hello");
    for roots in [theirs.pem().into_bytes(), Vec::new()] {
        let error = fetch(&url, roots).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot trust `{url}`"));
        assert!(error.hints()[0].contains("SSL_CERT_FILE"));
    }
    // The right authority, for another name.
    let by_number = format!("https://127.0.0.1:{}/", server.port());
    assert!(matches!(fetch(&by_number, ours.pem().into_bytes()), Err(HttpError::Trust { .. })));
    assert_eq!(server.seen().len(), 1);
}
