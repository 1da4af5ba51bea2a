use std::net::TcpStream;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use wbuild_remote::{ClientIdentity, HostTls, HttpClient, HttpError, HttpOptions, HttpUrl, Request};
use wbuild_report::Hint;
use wbuild_testkit::{HttpServer, Reply, Stream};

use crate::{Waits, watched};

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

type Authority = CertifiedIssuer<'static, KeyPair>;

/// A server with a certificate of `authority` for the name `localhost`.
fn server(authority: &Authority) -> HttpServer {
    server_for(authority, None)
}

/// The same, which talks only to clients with a certificate of `clients`.
fn server_for(authority: &Authority, clients: Option<&Authority>) -> HttpServer {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    serving(certificate.der().clone(), &key, clients)
}

/// A server that shows this certificate.
fn serving(certificate: CertificateDer<'static>, key: &KeyPair, clients: Option<&Authority>) -> HttpServer {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(clients) => {
            let mut roots = RootCertStore::empty();
            roots.add(clients.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let config = builder.with_single_cert(vec![certificate], key).unwrap();
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

#[test]
fn a_certificate_that_is_trusted_itself_is_good_for_its_name_and_time() {
    let key = || KeyPair::generate().unwrap();
    let made = |names: &[&str], until: i32| {
        let mut params =
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        // As `openssl req -x509` makes them.
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_before = rcgen::date_time_ymd(2001, 2, 3);
        params.not_after = rcgen::date_time_ymd(until, 2, 3);
        let key = key();
        let certificate = params.self_signed(&key).unwrap();
        (serving(certificate.der().clone(), &key, None), certificate.pem().into_bytes())
    };
    let url = |server: &HttpServer| format!("https://localhost:{}/", server.port());
    let (good, pem) = made(&["localhost"], 2090);
    assert_eq!(fetch(&url(&good), pem.clone()).unwrap(), b"hello");
    let why = |server: &HttpServer, pem: Vec<u8>| {
        let error = fetch(&url(server), pem).unwrap_err();
        assert!(matches!(error, HttpError::Trust { .. }), "{error}");
        wbuild_report::with_causes(&error)
    };
    // Not trusted, for another name, too old.
    let (other, other_pem) = made(&["example.org"], 2090);
    let (old, old_pem) = made(&["localhost"], 2002);
    why(&good, other_pem.clone());
    assert!(why(&other, other_pem).contains("not valid for name"));
    assert!(why(&old, old_pem).contains("expired"));
}

fn fetch_as(server: &HttpServer, host: &str, tls: HostTls) -> Result<Vec<u8>, HttpError> {
    let waiting = Arc::new(Waits::default());
    let hosts = [(format!("localhost:{}", server.port()), tls)].into();
    let client = HttpClient::new(HttpOptions { hosts, waiting, ..HttpOptions::default() });
    let url = format!("https://{host}:{}/", server.port());
    let request = Request::get(HttpUrl::parse(&url).unwrap());
    watched(|watch| client.read(&request, 100, watch)).0.map(|(_, bytes)| bytes)
}

#[test]
fn rules_of_one_host_are_for_that_host() {
    let ours = authority();
    let server = server(&ours);
    let trusted = HostTls { roots: ours.pem().into_bytes(), ..HostTls::default() };
    let unverified = HostTls { unverified: true, ..HostTls::default() };
    for tls in [trusted, unverified] {
        assert_eq!(fetch_as(&server, "localhost", tls.clone()).unwrap(), b"hello");
        assert!(matches!(fetch_as(&server, "127.0.0.1", tls), Err(HttpError::Trust { .. })));
    }
}

#[test]
fn a_host_is_shown_the_certificate_that_is_meant_for_it() {
    let (ours, theirs) = (authority(), authority());
    let server = server_for(&ours, Some(&theirs));
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(Vec::new()).unwrap().signed_by(&key, &theirs).unwrap();
    let identity = ClientIdentity {
        certificates: certificate.pem().into_bytes(),
        key: key.serialize_pem().into_bytes(),
    };
    let without = HostTls { roots: ours.pem().into_bytes(), ..HostTls::default() };
    let with = HostTls { identity: Some(identity), ..without.clone() };
    assert!(!format!("{with:?}").contains("PRIVATE"));
    assert_eq!(fetch_as(&server, "localhost", with).unwrap(), b"hello");
    fetch_as(&server, "localhost", without).unwrap_err();
}

#[test]
fn plain_http_behind_https_is_recognised() {
    let server = HttpServer::start(|_| Reply::ok("hello")).unwrap();
    let error = fetch(&format!("https://localhost:{}/", server.port()), Vec::new()).unwrap_err();
    assert!(matches!(error, HttpError::NoTls { .. }), "{error:?}");
}
