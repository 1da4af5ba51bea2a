//! Asking mirrors before the registry itself.

use std::collections::BTreeMap;
use std::time::Duration;

use wbuild_remote::{HttpError, HttpOptions, Retry, RetryPolicy, Watch};
use wbuild_report::with_causes;

use crate::client::{RegistryClient, locked};
use crate::error::RegistryError;
use crate::rules::Endpoint;

/// A mirror that has given something is tried this often. One that has not, is tried once.
const TRIES: u32 = 3;

/// So long a mirror may take to connect, and to begin with an answer: the next place is asked then.
const PATIENCE: Duration = Duration::from_secs(15);

/// No wait for a mirror is longer, whatever it asks for.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// How mirrors are asked.
pub(crate) fn less_patient(options: HttpOptions) -> HttpOptions {
    let usual = options.retry;
    let retry = RetryPolicy {
        tries: usual.tries.min(TRIES),
        stall: usual.stall.min(PATIENCE),
        longest_wait: usual.longest_wait.min(LONGEST_WAIT),
        ..usual
    };
    HttpOptions { retry, ..options }
}

/// Mirrors that are not asked any more, and why: what did not work once costs every question its time.
#[derive(Debug, Default)]
pub(crate) struct PassedOver {
    /// By host: they do not answer.
    hosts: BTreeMap<String, String>,
    /// By host and repository: they do not give it.
    repositories: BTreeMap<(String, String), String>,
}

/// How much of a mirror an error is about.
enum About {
    Host,
    Repository,
    /// Only what was asked for.
    This,
}

impl RegistryClient {
    /// Asks mirrors first, and the registry itself last. What a mirror cannot give, the next one is asked for; one that does
    /// not work is passed over from then on, unless the registry cannot be reached either.
    pub(crate) fn ask_in_turn<T>(
        &self,
        endpoints: &[Endpoint],
        watch: &Watch<'_>,
        mut ask: impl FnMut(&Endpoint) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let Some((own, mirrors)) = endpoints.split_last() else {
            // There is always the registry itself.
            return Err(HttpError::Stopped.into());
        };
        let mut said = Vec::new();
        for mirror in mirrors {
            if let Some(why) = self.why_passed_over(mirror) {
                said.push((mirror, why));
                continue;
            }
            match ask(mirror) {
                Err(error) if !error.is_of_this_machine() => {
                    let why = with_causes(&error);
                    if !error.is_missing() {
                        self.pass_over(mirror, &error, &why, watch);
                    }
                    said.push((mirror, why));
                }
                other => return other,
            }
        }
        let error = match ask(own) {
            Err(error) if error.is_unreachable() && !said.is_empty() => error,
            other => return other,
        };
        // There is nobody else: who did not answer at once may have a reason.
        for (mirror, why) in &mut said {
            if !self.is_silent(mirror) {
                continue;
            }
            self.insist(mirror);
            match ask(mirror) {
                Err(error) if !error.is_of_this_machine() => *why = with_causes(&error),
                Ok(given) => {
                    locked(&self.passed_over).hosts.remove(&mirror.host);
                    return Ok(given);
                }
                other => return other,
            }
        }
        let mirrors = said.iter().map(|(mirror, why)| format!("the mirror `{}`: {why}", mirror.registry));
        Err(RegistryError::Nowhere { mirrors: mirrors.collect(), own: Box::new(error) })
    }

    fn why_passed_over(&self, mirror: &Endpoint) -> Option<String> {
        let known = locked(&self.passed_over);
        let repository = (mirror.host.clone(), mirror.name.clone());
        known.hosts.get(&mirror.host).or_else(|| known.repositories.get(&repository)).cloned()
    }

    /// Whether a mirror is passed over because it does not answer.
    fn is_silent(&self, mirror: &Endpoint) -> bool {
        locked(&self.passed_over).hosts.contains_key(&mirror.host)
    }

    fn pass_over(&self, mirror: &Endpoint, error: &RegistryError, why: &str, watch: &Watch<'_>) {
        let mut known = locked(&self.passed_over);
        let (before, what) = match about(error) {
            About::Host => {
                (known.hosts.insert(mirror.host.clone(), why.to_owned()), "; it is not asked any more")
            }
            About::Repository => {
                let repository = (mirror.host.clone(), mirror.name.clone());
                let before = known.repositories.insert(repository, why.to_owned());
                (before, "; it is not asked for this repository any more")
            }
            About::This => (None, ""),
        };
        drop(known);
        if before.is_none() {
            let subject = format!("the mirror {}", mirror.registry);
            (watch.retrying)(&Retry { subject, why: format!("{why}{what}"), after: None });
        }
    }
}

fn about(error: &RegistryError) -> About {
    match error {
        RegistryError::PlainHttp { .. }
        | RegistryError::WantsHttps { .. }
        | RegistryError::Http(HttpError::Trust { .. } | HttpError::NoTls { .. }) => About::Host,
        error if error.is_unreachable() => About::Host,
        RegistryError::Denied { .. } | RegistryError::Refused { .. } | RegistryError::Protocol { .. } => {
            About::Repository
        }
        _ => About::This,
    }
}
