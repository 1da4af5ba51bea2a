//! What programs write beside what they are asked for: caches, logs and temporary files, with times in them. They get places
//! for it that are in no layer, so that the same inputs give the same bytes.

use wbuild_graph::{Cache, Mount, MountKind};

use super::{Lowering, entry};

/// Where npm keeps its cache, relative to the root: packages, with the times at which they were fetched, and its logs.
pub(super) const NPM_CACHE: &str = "root/.npm";

/// Where pnpm keeps what it asked registries, and when: from 11 on, it compares lockfiles with it (`minimumReleaseAge`).
pub(super) const PNPM_CACHE: &str = "root/.cache/pnpm";

/// Temporary files. Among them is what node compiles ahead for npm and pnpm, which differs each time.
const TEMPORARY: &str = "tmp";

/// Logs: those of `apk` and `dpkg` begin with the time.
const LOGS: &str = "var/log";

impl Lowering<'_> {
    /// For the lines of the toolchain, which mostly run package managers.
    pub(super) fn toolchain_noise(&self) -> Vec<Mount> {
        vec![self.npm_cache(), scratch(TEMPORARY), scratch(LOGS)]
    }

    /// For the install and for lifecycle scripts.
    pub(super) fn install_noise(&self) -> [Mount; 3] {
        [self.npm_cache(), self.pnpm_cache(), scratch(TEMPORARY)]
    }

    fn npm_cache(&self) -> Mount {
        let platform = self.input.platform;
        let kind = MountKind::Cache(Cache::shared(format!("npm-cache {platform}")));
        Mount { target: entry(NPM_CACHE), kind }
    }

    fn pnpm_cache(&self) -> Mount {
        let platform = self.input.platform;
        let kind = MountKind::Cache(Cache::shared(format!("pnpm-cache {platform}")));
        Mount { target: entry(PNPM_CACHE), kind }
    }
}

fn scratch(target: &str) -> Mount {
    Mount { target: entry(target), kind: MountKind::Tmpfs { size: None } }
}
