use std::fmt;
use std::sync::Arc;

use reqwest::{Client, NoProxy, Proxy};
use rustls::crypto::ring;

use super::client::HttpOptions;
use super::error::HttpError;
use super::tls::{self, HostTls};

/// Never asked of a proxy, which would mean another machine by it.
const LOOPBACK: &str = "localhost,127.0.0.0/8,::1";

/// Proxies as environments name them. Shown nowhere: they carry passwords.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    http: Option<String>,
    https: Option<String>,
    all: Option<String>,
    none: Option<String>,
}

impl Proxies {
    /// Reads `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy` from `variable`, or the same in capitals.
    pub fn of(variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let either = |name: &str| {
            let value = variable(name).or_else(|| variable(&name.to_ascii_uppercase()));
            value.filter(|value| !value.trim().is_empty())
        };
        Self {
            http: either("http_proxy"),
            https: either("https_proxy"),
            all: either("all_proxy"),
            none: either("no_proxy"),
        }
    }

    /// The same again, for a child process.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let none =
            self.none.as_ref().map_or_else(|| LOOPBACK.to_owned(), |none| format!("{none},{LOOPBACK}"));
        let named = [("http_proxy", &self.http), ("https_proxy", &self.https), ("all_proxy", &self.all)];
        let mut variables: Vec<_> =
            named.iter().filter_map(|(name, value)| Some((*name, (*value).clone()?))).collect();
        if !variables.is_empty() {
            variables.push(("no_proxy", none));
        }
        variables
    }

    fn proxies(&self) -> Result<Vec<Proxy>, HttpError> {
        type Make = fn(&str) -> reqwest::Result<Proxy>;
        let none = self.none.as_deref().unwrap_or_default();
        let none = NoProxy::from_string(&format!("{none},{LOOPBACK}"));
        let named: [(&str, &Option<String>, Make); 3] = [
            ("http_proxy", &self.http, |url| Proxy::http(url)),
            ("https_proxy", &self.https, |url| Proxy::https(url)),
            ("all_proxy", &self.all, |url| Proxy::all(url)),
        ];
        let mut proxies = Vec::new();
        for (name, url, make) in named {
            let Some(url) = url else { continue };
            let proxy = make(url)
                .map_err(|_| HttpError::Setup { why: format!("{name} is not the URL of a proxy") })?;
            proxies.push(proxy.no_proxy(none.clone()));
        }
        Ok(proxies)
    }
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.variables().iter().map(|(name, _)| *name).collect();
        f.debug_tuple("Proxies").field(&names).finish()
    }
}

/// Makes the client for hosts of one trust. Redirects are followed elsewhere, with care for credentials.
pub(crate) fn client(options: &HttpOptions, host: Option<&HostTls>) -> Result<Client, HttpError> {
    let setup = |why: String| HttpError::Setup { why };
    let tls = tls::config(Arc::new(ring::default_provider()), &options.roots, host)?;
    let mut builder = Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .no_proxy()
        .connect_timeout(options.retry.stall)
        .user_agent(concat!("wbuild/", env!("CARGO_PKG_VERSION")));
    for proxy in options.proxies.proxies()? {
        builder = builder.proxy(proxy);
    }
    builder.build().map_err(|error| setup(error.without_url().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_letters_win_and_nothing_is_shown() {
        let variables = |name: &str| match name {
            "https_proxy" => Some("http://user:secret@one:3128".to_owned()),
            "HTTPS_PROXY" => Some("http://two:3128".to_owned()),
            "NO_PROXY" => Some("intra.example".to_owned()),
            "http_proxy" => Some(" ".to_owned()),
            _ => None,
        };
        let proxies = Proxies::of(&variables);
        assert_eq!(
            proxies.variables(),
            [
                ("https_proxy", "http://user:secret@one:3128".to_owned()),
                ("no_proxy", format!("intra.example,{LOOPBACK}")),
            ]
        );
        assert_eq!(format!("{proxies:?}"), r#"Proxies(["https_proxy", "no_proxy"])"#);
        assert_eq!(proxies.proxies().unwrap().len(), 1);
        let wrong = Proxies::of(&|name| (name == "http_proxy").then(|| "http://[secret".to_owned()));
        assert_eq!(
            wrong.proxies().unwrap_err().to_string(),
            "cannot set up connections: http_proxy is not the URL of a proxy"
        );
    }
}
