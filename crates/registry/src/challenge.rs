use std::collections::BTreeMap;

/// How a registry wants to know who asks: the `WWW-Authenticate` of a 401 (RFC 9110, 11.6.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// A user name and a password with each request.
    Basic,
    /// A token, which is had from a token server (distribution's token specification).
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

impl Challenge {
    /// The best of all that the headers offer: bearer before basic. `None` when there is nothing that is known here.
    pub(crate) fn best<'a>(headers: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let mut basic = None;
        for (scheme, mut parameters) in headers.into_iter().flat_map(parse) {
            match scheme.as_str() {
                "bearer" => {
                    let Some(realm) = parameters.remove("realm") else { continue };
                    let mut given = |name| parameters.remove(name).filter(|text: &String| !text.is_empty());
                    return Some(Self::Bearer { realm, service: given("service"), scope: given("scope") });
                }
                "basic" => basic = Some(Self::Basic),
                _ => {}
            }
        }
        basic
    }
}

/// Schemes in small letters, each with its parameters.
fn parse(text: &str) -> Vec<(String, BTreeMap<String, String>)> {
    let mut found: Vec<(String, BTreeMap<String, String>)> = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest.find(|c: char| c.is_whitespace() || c == ',' || c == '=').unwrap_or(rest.len());
        let (word, behind) = rest.split_at(end);
        let behind = behind.trim_start();
        match behind.strip_prefix('=') {
            Some(value) if !word.is_empty() => {
                let (value, behind) = value_of(value.trim_start());
                if let Some((_, parameters)) = found.last_mut() {
                    parameters.entry(word.to_ascii_lowercase()).or_insert(value);
                }
                rest = behind;
            }
            // A token68, or something that is no header at all.
            Some(behind) => rest = behind,
            None => {
                if !word.is_empty() {
                    found.push((word.to_ascii_lowercase(), BTreeMap::new()));
                }
                rest = behind;
            }
        }
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
    }
    found
}

/// A token or a quoted text, and what is behind it.
fn value_of(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(|c: char| c.is_whitespace() || c == ',').unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        return (value.to_owned(), rest);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, char)| char)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Some(Challenge::Bearer { realm: realm.into(), service: owned(service), scope: owned(scope) })
    }

    #[test]
    fn headers_of_registries() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#;
        let scope = Some("repository:a/b:pull,push");
        assert_eq!(
            Challenge::best([hub]),
            bearer("https://auth.docker.io/token", Some("registry.docker.io"), scope)
        );
        assert_eq!(Challenge::best([r#"Basic realm="x, y""#]), Some(Challenge::Basic));
        assert_eq!(Challenge::best(["basic"]), Some(Challenge::Basic));
        let two = r#"Basic realm="a", BEARER  Realm = "https://x/\"y" , error="invalid_token""#;
        assert_eq!(Challenge::best([two]), bearer("https://x/\"y", None, None));
        assert_eq!(
            Challenge::best(["Basic realm=\"x\"", "Bearer realm=https://y"]),
            bearer("https://y", None, None)
        );
        for nothing in [
            "",
            ",",
            "Negotiate abc==",
            "Bearer",
            "Bearer service=\"x\"",
            "=\"",
            "\"",
            "= = =",
            "Bearer realm",
        ] {
            assert_eq!(Challenge::best([nothing]), None, "{nothing}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_header_has_an_end(text in ".{0,200}") {
            let _ = Challenge::best([text.as_str()]);
        }

        #[test]
        fn what_is_quoted_comes_back(realm in "[ -~]{1,60}", service in "[a-z.]{1,20}", before in "(Negotiate [a-z]{1,9}=*, )?") {
            let quoted = realm.replace('\\', "\\\\").replace('"', "\\\"");
            let header = format!(r#"{before}Bearer realm="{quoted}" , service={service}"#);
            proptest::prop_assert_eq!(Challenge::best([header.as_str()]), bearer(&realm, Some(&service), None));
        }
    }
}
