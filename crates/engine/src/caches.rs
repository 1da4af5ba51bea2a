//! Cache mounts (decision 14): directories that outlive builds, shared or taken one at a time, and for those that are
//! published only when their step succeeds a private copy.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use wbuild_graph::{Cache, CacheSharing};
use wbuild_oci::Digest;
use wbuild_snapshot::Owners;
use wbuild_store::{KeyLock, Store};
use wbuild_tree::ContentDigest;

use crate::error::EngineError;
use crate::step::io_error;

/// A cache mount in use by one step.
pub(crate) struct CacheInUse<'a> {
    cache: &'a Cache,
    /// What the step writes to.
    pub(crate) folder: PathBuf,
    /// Where it goes when the step succeeds, if that is somewhere else.
    publish_to: Option<PathBuf>,
    _lock: Option<KeyLock>,
}

/// Ids never become paths: they are hashed. Owner and mode other than the usual ones make another cache, as in BuildKit,
/// and so does what it begins with.
pub(crate) fn digest_of(cache: &Cache, seed: Option<&Seed>) -> Digest {
    let mut text = format!("cache mount\0{}", cache.id);
    if (cache.uid, cache.gid, cache.mode) != (0, 0, 0o755) {
        text.push_str(&format!("\0{}:{} {:o}", cache.uid, cache.gid, cache.mode));
    }
    if let Some(seed) = seed {
        text.push_str(&format!("\0seed {}", seed.content.0));
    }
    Digest::of(text.as_bytes())
}

/// What a cache mount holds when it is made.
#[derive(Debug)]
pub(crate) struct Seed {
    /// The files, on disk.
    pub(crate) folder: PathBuf,
    /// Their digest.
    pub(crate) content: ContentDigest,
}

impl<'a> CacheInUse<'a> {
    /// Takes a cache mount for a step; waits for who holds a locked one. `fill` is asked once for one that is empty, with
    /// its folder, and says whether it put something there.
    pub(crate) fn take(
        cache: &'a Cache,
        seed: Option<&Seed>,
        store: &Store,
        fill: &dyn Fn(&Digest, &Path) -> Result<bool, EngineError>,
    ) -> Result<Self, EngineError> {
        let digest = digest_of(cache, seed);
        let fresh = || -> Result<PathBuf, EngineError> {
            let folder = store.workspace()?.fresh("cache");
            fs::create_dir(&folder).map_err(io_error("create", &folder))?;
            begin(&folder, cache, seed)?;
            Ok(folder)
        };
        let lock = match cache.sharing {
            CacheSharing::Shared => None,
            CacheSharing::Locked => Some(store.lock(&digest)?),
            CacheSharing::Private => match store.try_lock(&digest)? {
                Some(lock) => Some(lock),
                None => return Ok(Self { cache, folder: fresh()?, publish_to: None, _lock: None }),
            },
        };
        let kept = store.mount(&digest)?;
        if fs::read_dir(&kept).map_err(io_error("read", &kept))?.next().is_none() {
            let seed = if fill(&digest, &kept)? { None } else { seed };
            begin(&kept, cache, seed)?;
        }
        if !cache.publish_on_success {
            return Ok(Self { cache, folder: kept, publish_to: None, _lock: lock });
        }
        let folder = fresh()?;
        copy_contents(&kept, &folder)?;
        Ok(Self { cache, folder, publish_to: Some(kept), _lock: lock })
    }

    /// The step succeeded: its copy takes the place of what was kept, without what must never leave a step.
    pub(crate) fn publish(self) -> Result<(), EngineError> {
        let Some(kept) = &self.publish_to else { return Ok(()) };
        for name in &self.cache.never_publish {
            let path = self.folder.join(name);
            let removed = match fs::symlink_metadata(&path) {
                Ok(meta) if meta.is_dir() => fs::remove_dir_all(&path),
                Ok(_) => fs::remove_file(&path),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(error) => Err(error),
            };
            removed.map_err(io_error("remove", &path))?;
        }
        // The old one goes aside first, so that a kill in between loses the cache and never mixes two.
        let aside = self.folder.with_extension("old");
        fs::rename(kept, &aside).map_err(io_error("replace", kept))?;
        fs::rename(&self.folder, kept).map_err(io_error("replace", kept))?;
        let _ = fs::remove_dir_all(&aside);
        Ok(())
    }
}

/// Makes an empty folder what the cache is to be at first.
fn begin(folder: &Path, cache: &Cache, seed: Option<&Seed>) -> Result<(), EngineError> {
    if let Some(seed) = seed {
        copy_contents(&seed.folder, folder)?;
    }
    if Owners::of_process() == Owners::Set {
        std::os::unix::fs::chown(folder, Some(cache.uid), Some(cache.gid))
            .map_err(io_error("give away", folder))?;
    }
    let mode = fs::Permissions::from_mode(u32::from(cache.mode));
    fs::set_permissions(folder, mode).map_err(io_error("create", folder))
}

/// Copies files, directories and links with owners, modes and times: what a tool's cache is made of. Anything else is left
/// behind; a cache may be incomplete.
fn copy_contents(from: &Path, to: &Path) -> Result<(), EngineError> {
    for entry in fs::read_dir(from).map_err(io_error("read", from))? {
        let entry = entry.map_err(io_error("read", from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let meta = entry.metadata().map_err(io_error("read", &source))?;
        if meta.is_dir() {
            fs::create_dir(&target).map_err(io_error("create", &target))?;
            copy_contents(&source, &target)?;
            give(&target, &meta)?;
            fs::set_permissions(&target, meta.permissions()).map_err(io_error("create", &target))?;
        } else if meta.is_file() {
            fs::copy(&source, &target).map_err(io_error("copy", &source))?;
            give(&target, &meta)?;
            fs::set_permissions(&target, meta.permissions()).map_err(io_error("copy", &source))?;
            set_times(&target, &meta).map_err(io_error("copy", &source))?;
        } else if meta.is_symlink() {
            let to = fs::read_link(&source).map_err(io_error("read", &source))?;
            std::os::unix::fs::symlink(to, &target).map_err(io_error("create", &target))?;
            give(&target, &meta)?;
        }
    }
    Ok(())
}

/// Owners are kept where this process may set them.
fn give(path: &Path, meta: &fs::Metadata) -> Result<(), EngineError> {
    if Owners::of_process() != Owners::Set {
        return Ok(());
    }
    std::os::unix::fs::lchown(path, Some(meta.uid()), Some(meta.gid())).map_err(io_error("give away", path))
}

fn set_times(path: &Path, meta: &fs::Metadata) -> io::Result<()> {
    let modified = meta.modified()?;
    let file = fs::File::options().write(true).open(path).or_else(|_| fs::File::open(path))?;
    file.set_modified(modified)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next_cache() -> Cache {
        Cache {
            id: "next".into(),
            sharing: CacheSharing::Locked,
            publish_on_success: true,
            never_publish: vec![".previewinfo".into(), "fetch-cache".into()],
            read_only: false,
            uid: 0,
            gid: 0,
            mode: 0o755,
            seed: None,
            inside: wbuild_tree::EntryPath::default(),
        }
    }

    #[test]
    fn a_failed_step_changes_nothing_and_secrets_never_leave() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(home.path()).unwrap();
        let cache = next_cache();
        let first = CacheInUse::take(&cache, None, &store, &|_, _| Ok(false)).unwrap();
        fs::create_dir(first.folder.join("webpack")).unwrap();
        fs::write(first.folder.join("webpack/0.pack"), "good").unwrap();
        fs::create_dir(first.folder.join("fetch-cache")).unwrap();
        fs::write(first.folder.join(".previewinfo"), "secret").unwrap();
        first.publish().unwrap();

        let failing = CacheInUse::take(&cache, None, &store, &|_, _| Ok(false)).unwrap();
        assert_eq!(fs::read(failing.folder.join("webpack/0.pack")).unwrap(), b"good");
        assert!(!failing.folder.join(".previewinfo").exists());
        assert!(!failing.folder.join("fetch-cache").exists());
        fs::write(failing.folder.join("webpack/0.pack"), "half").unwrap();
        drop(failing);

        let third = CacheInUse::take(&cache, None, &store, &|_, _| Ok(false)).unwrap();
        assert_eq!(fs::read(third.folder.join("webpack/0.pack")).unwrap(), b"good");
    }

    #[test]
    fn a_private_cache_that_is_taken_is_a_fresh_one() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(home.path()).unwrap();
        let cache = Cache { sharing: CacheSharing::Private, publish_on_success: false, ..next_cache() };
        let first = CacheInUse::take(&cache, None, &store, &|_, _| Ok(false)).unwrap();
        let second = CacheInUse::take(&cache, None, &store, &|_, _| Ok(false)).unwrap();
        assert_ne!(first.folder, second.folder);
    }
}
