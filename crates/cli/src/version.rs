//! What `--version` says: the release, the commit, and what was compiled in.

/// The release.
pub(crate) const SHORT: &str = env!("CARGO_PKG_VERSION");

macro_rules! long {
    ($caches:literal) => {
        concat!(
            env!("CARGO_PKG_VERSION"),
            "\ncommit: ",
            env!("WBUILD_COMMIT"),
            "\nfeatures: frontends=buildspec+dockerfile, isolation=overlay+norun, layers=gzip+zstd+estargz, caches=",
            $caches
        )
    };
}

/// With commit and features.
#[cfg(feature = "object-stores")]
pub(crate) const LONG: &str = long!("local+http+registry+gha+turbo+s3+gcs+azblob");

/// With commit and features.
#[cfg(not(feature = "object-stores"))]
pub(crate) const LONG: &str = long!("local+http+registry+gha+turbo");
