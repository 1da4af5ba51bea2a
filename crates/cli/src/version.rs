//! What `--version` says: the release, the commit, and what was compiled in.

/// The release.
pub(crate) const SHORT: &str = env!("CARGO_PKG_VERSION");

/// With commit and features.
pub(crate) const LONG: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    "\ncommit: ",
    env!("WBUILD_COMMIT"),
    "\nfeatures: isolation=overlay, layers=gzip+zstd, frontends=buildspec"
);
