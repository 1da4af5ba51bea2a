//! Servers that take a URL and a token.

use wbuild_remote::HttpUrl;

use super::{Fields, PlaceError, Secret, Variables};
use crate::backend::{GhaBackend, HttpBackend, Network, TurboBackend, TurboTeam};

/// Where Turborepo's own cache is.
const TURBO_API: &str = "https://vercel.com/api";

/// A server of Bazel's HTTP caching protocol.
#[derive(Clone, Debug)]
pub(super) struct HttpPlace {
    url: HttpUrl,
    token: Option<Secret>,
}

impl HttpPlace {
    pub(super) fn read(fields: &mut Fields, variable: Variables<'_>) -> Result<Self, PlaceError> {
        let url = fields.need("url")?;
        let url = fields.url(&url)?;
        let token =
            fields.take("token").or_else(|| variable("WBUILD_CACHE_TOKEN").filter(|token| !token.is_empty()));
        Ok(Self { url, token: token.map(Secret) })
    }

    pub(super) fn connect(&self, network: &Network) -> HttpBackend {
        HttpBackend::new(self.url.clone(), self.token.as_ref().map(Secret::tell), network)
    }
}

/// A server of Turborepo's remote cache API.
#[derive(Clone, Debug)]
pub(super) struct TurboPlace {
    url: HttpUrl,
    token: Option<Secret>,
    team: TurboTeam,
}

impl TurboPlace {
    /// What is not given comes from the variables that `turbo` itself reads, and from those of Vercel's builds.
    pub(super) fn read(fields: &mut Fields, variable: Variables<'_>) -> Result<Self, PlaceError> {
        let said =
            |names: &[&str]| names.iter().find_map(|name| variable(name).filter(|value| !value.is_empty()));
        let url = fields.take("url").or_else(|| said(&["TURBO_API"])).unwrap_or_else(|| TURBO_API.to_owned());
        let url = fields.url(&url)?;
        let token = fields.take("token").or_else(|| said(&["TURBO_TOKEN", "VERCEL_ARTIFACTS_TOKEN"]));
        if token.is_none() && url.authorization().is_none() {
            let hint = "set TURBO_TOKEN, or give token=".to_owned();
            return Err(fields.error_with("there is no token".to_owned(), hint));
        }
        let team = TurboTeam {
            id: fields.take("teamid").or_else(|| said(&["TURBO_TEAMID", "VERCEL_ARTIFACTS_OWNER"])),
            slug: fields.take("team").or_else(|| said(&["TURBO_TEAM"])),
        };
        Ok(Self { url, token: token.map(Secret), team })
    }

    pub(super) fn connect(&self, network: &Network) -> TurboBackend {
        TurboBackend::new(self.url.clone(), self.token.as_ref().map(Secret::tell), &self.team, network)
    }
}

/// GitHub's cache service.
#[derive(Clone, Debug)]
pub(super) struct GhaPlace {
    url: HttpUrl,
    token: Secret,
}

impl GhaPlace {
    /// Both come from the variables that a runner gives to actions, and not to the commands of a job.
    pub(super) fn read(fields: &mut Fields, variable: Variables<'_>) -> Result<Self, PlaceError> {
        let said = |name: &str| variable(name).filter(|value| !value.is_empty());
        let url =
            fields.take("url_v2").or_else(|| fields.take("url")).or_else(|| said("ACTIONS_RESULTS_URL"));
        let token = fields.take("token").or_else(|| said("ACTIONS_RUNTIME_TOKEN"));
        let (Some(url), Some(token)) = (url, token) else {
            let why = "ACTIONS_RESULTS_URL and ACTIONS_RUNTIME_TOKEN are not set".to_owned();
            let hint = "a runner gives them to actions only: the action `crazy-max/ghaction-github-runtime` passes them on";
            return Err(fields.error_with(why, hint.to_owned()));
        };
        Ok(Self { url: fields.url(&url)?, token: Secret(token) })
    }

    pub(super) fn connect(&self, network: &Network) -> GhaBackend {
        GhaBackend::new(self.url.clone(), self.token.tell(), network)
    }
}
