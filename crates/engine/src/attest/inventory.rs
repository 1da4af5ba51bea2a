//! The packages of a root file system, from its trees: nothing is mounted, and no more is read than databases, manifests and
//! lockfiles.

use std::collections::BTreeSet;

use wbuild_attest::npm::{self, Locked, Locks};
use wbuild_attest::{
    Algorithm, Checksum, Ecosystem, Inventory, OsRelease, Package, Presence, Subject, apk, dpkg, rpm,
};
use wbuild_frontend::Target;
use wbuild_graph::{DeltaId, Snapshot};
use wbuild_report::SourceFile;
use wbuild_snapshot::View;
use wbuild_tree::{Entry, EntryPath, Node, Subtree, Visit, apply, lookup, resolve, walk};
use wbuild_workspace::Lockfile;

use crate::error::EngineError;
use crate::worker::Engine;

/// Databases and lockfiles of the largest repositories have some megabytes; rpm's, of a system with everything, a hundred.
const MAX_DATABASE: u64 = 128 << 20;

/// Manifests are written by people, or nearly.
const MAX_MANIFEST: u64 = 4 << 20;

/// Where systems say what they are, in the order of os-release(5).
const OS_RELEASE: [&str; 2] = ["etc/os-release", "usr/lib/os-release"];

/// What Node.js installs beside its program and says its version.
const NODE_HEADER: &str = "usr/local/include/node/node_version.h";

/// The program.
const NODE: &str = "usr/local/bin/node";

/// A root file system: its names, and the way to its bytes.
struct Root {
    tree: Subtree,
    view: View,
}

/// The files that matter, in the order of the tree.
#[derive(Debug, Default)]
struct Found {
    manifests: Vec<(EntryPath, Node)>,
    npm_locks: Vec<EntryPath>,
    pnpm_locks: Vec<EntryPath>,
}

impl Engine {
    /// The packages of a solved target. `locked` is what a lockfile of the build names: it is told apart from what is really
    /// there.
    ///
    /// Unpacks layers of the base image that nothing has needed yet.
    ///
    /// # Errors
    /// When something of the snapshot is gone or cannot be read. What makes no sense is a note of the inventory.
    pub fn inventory(
        &self,
        target: &Target,
        snapshot: &Snapshot,
        locked: &[Locked],
    ) -> Result<Inventory, EngineError> {
        let base = match &target.base_image {
            Some(image) => self.open_image(image)?.image.layers.len(),
            None => 0,
        };
        let root = self.root(snapshot)?;
        let below = self.root(&Snapshot { deltas: snapshot.deltas.iter().take(base).copied().collect() })?;
        let mut inventory = Inventory::default();
        self.add_system(&root, &below, &mut inventory)?;
        self.add_node(&root, &below, &mut inventory)?;
        self.add_npm(&root, &below, locked, &mut inventory)?;
        Ok(inventory)
    }

    /// Every regular file of a snapshot with its digest: what statements about files are about.
    ///
    /// # Errors
    /// As [`inventory`](Self::inventory).
    pub fn file_subjects(&self, snapshot: &Snapshot) -> Result<Vec<Subject>, EngineError> {
        let mut subjects = Vec::new();
        walk::<EngineError>(&self.trees(), &self.root(snapshot)?.tree, &mut |path, entry| {
            if let Node::File { content, .. } = &entry.node {
                subjects.push(Subject { name: plain(path), digest: *content });
            }
            Ok(Visit::Into)
        })?;
        Ok(subjects)
    }

    fn root(&self, snapshot: &Snapshot) -> Result<Root, EngineError> {
        let trees = self.trees();
        let mut tree = Subtree::empty();
        // Steps' files first: where this process may not read them, making the tree brings their bytes into the store.
        for delta in snapshot.deltas.iter().filter(|delta| !matches!(delta, DeltaId::Layer(_))) {
            self.tree_face(delta)?;
        }
        let view = self.view(snapshot)?;
        for delta in &snapshot.deltas {
            tree = apply(&trees, &tree, &self.tree_face(delta)?)?;
        }
        Ok(Root { tree, view })
    }

    /// A file by its path, links followed; `None` when there is none, and with a note when it is larger than `cap`.
    fn read(
        &self,
        root: &Root,
        path: &EntryPath,
        cap: u64,
        inventory: &mut Inventory,
    ) -> Result<Option<Vec<u8>>, EngineError> {
        let Ok(resolved) = resolve(&root.view.outline(), path, true) else { return Ok(None) };
        match resolved.entry.map(|entry| entry.node) {
            Some(Node::File { size, .. }) if size > cap => {
                inventory.notes.insert(format!("{path} has {size} bytes and was not read"));
                Ok(None)
            }
            Some(Node::File { .. }) => Ok(root.view.read_file(&resolved.path, cap)?),
            _ => Ok(None),
        }
    }

    /// Packages of the distribution.
    fn add_system(&self, root: &Root, below: &Root, inventory: &mut Inventory) -> Result<(), EngineError> {
        let in_base: BTreeSet<String> =
            self.system_packages(below, &mut Inventory::default())?.iter().map(Package::purl).collect();
        let packages = self.system_packages(root, inventory)?;
        let found: BTreeSet<String> = packages.iter().map(Package::purl).collect();
        for mut package in packages {
            package.in_base = in_base.contains(&package.purl());
            inventory.add(package);
        }
        let gone: Vec<&str> = in_base.difference(&found).map(String::as_str).collect();
        if !gone.is_empty() {
            inventory.notes.insert(format!(
                "packages of the base image that are removed above it, and whose files are in its layers: {}",
                gone.join(", ")
            ));
        }
        Ok(())
    }

    fn system_packages(&self, root: &Root, inventory: &mut Inventory) -> Result<Vec<Package>, EngineError> {
        let mut os = OsRelease::parse(b"");
        for place in OS_RELEASE {
            if let Some(bytes) = self.read(root, &path(place), MAX_MANIFEST, inventory)? {
                os = OsRelease::parse(&bytes);
                break;
            }
        }
        for place in apk::DATABASES {
            // One may be a link to the other.
            if let Some(bytes) = self.read(root, &path(place), MAX_DATABASE, inventory)? {
                return Ok(apk::packages(&bytes, &os, place));
            }
        }
        let mut packages = Vec::new();
        if let Some(bytes) = self.read(root, &path(dpkg::STATUS), MAX_DATABASE, inventory)? {
            packages.extend(dpkg::packages(&bytes, &os, dpkg::STATUS));
        }
        let folder = path(dpkg::STATUS_FOLDER);
        for (name, _) in root.view.list(&folder)?.into_iter().filter(|(_, is_directory)| !is_directory) {
            let place = folder.join(&name);
            // Beside them are lists of files with checksums.
            if !name.as_bytes().ends_with(b".md5sums")
                && let Some(bytes) = self.read(root, &place, MAX_MANIFEST, inventory)?
            {
                packages.extend(dpkg::packages(&bytes, &os, &plain(&place)));
            }
        }
        if !packages.is_empty() {
            inventory.notes.insert("licenses of Debian packages are not read: they are prose".to_owned());
        }
        packages.extend(self.rpm_packages(root, &os, inventory)?);
        Ok(packages)
    }

    /// Packages of the first database of rpm that is there.
    fn rpm_packages(
        &self,
        root: &Root,
        os: &OsRelease,
        inventory: &mut Inventory,
    ) -> Result<Vec<Package>, EngineError> {
        let trees = self.trees();
        for (kind, folder) in
            rpm::Kind::ALL.into_iter().flat_map(|kind| rpm::FOLDERS.map(|folder| (kind, folder)))
        {
            let place = format!("{folder}/{}", kind.file_name());
            if kind == rpm::Kind::BerkeleyDb {
                if lookup(&trees, &root.tree, &path(&place))?.is_some() {
                    inventory.notes.insert(format!(
                        "the packages of rpm are missing here: /{place} is a database of Berkeley DB, which is not read"
                    ));
                }
                continue;
            }
            let Some(database) = self.read(root, &path(&place), MAX_DATABASE, inventory)? else { continue };
            let log = format!("{place}{}", rpm::LOG_SUFFIX);
            let log = self.read(root, &path(&log), MAX_DATABASE, inventory)?.unwrap_or_default();
            let read = rpm::packages(kind, &database, &log, os, &place);
            if read.damaged {
                inventory.notes.insert(format!(
                    "packages of rpm may be missing here: not all of its database /{place} makes sense"
                ));
            }
            return Ok(read.packages);
        }
        Ok(Vec::new())
    }

    /// Node.js where no package manager put it: as its own archive unpacks it, and as the official images have it.
    fn add_node(&self, root: &Root, below: &Root, inventory: &mut Inventory) -> Result<(), EngineError> {
        let trees = self.trees();
        let program = lookup(&trees, &root.tree, &path(NODE))?;
        let Some(Entry { node: Node::File { content, .. }, .. }) = &program else { return Ok(()) };
        let Some(header) = self.read(root, &path(NODE_HEADER), MAX_MANIFEST, inventory)? else {
            inventory.notes.insert(format!("/{NODE} is there, and nothing says which version it is"));
            return Ok(());
        };
        let mut package = Package::new(Ecosystem::Generic, "node", Presence::Found);
        package.version = node_version(&String::from_utf8_lossy(&header));
        package.checksums.insert(Checksum { algorithm: Algorithm::Sha256, hex: content.hex() });
        package.places.insert(NODE.to_owned());
        package.in_base = lookup(&trees, &below.tree, &path(NODE))? == program;
        inventory.add(package);
        Ok(())
    }

    /// Packages of npm: those that are there, and those that are only locked.
    fn add_npm(
        &self,
        root: &Root,
        below: &Root,
        locked: &[Locked],
        inventory: &mut Inventory,
    ) -> Result<(), EngineError> {
        let trees = self.trees();
        let found = find(&trees, &root.tree)?;
        let mut locks = Locks::default();
        locks.extend(locked.iter().cloned());
        for place in &found.npm_locks {
            if let Some(bytes) = self.read(root, place, MAX_DATABASE, inventory)? {
                locks.extend(npm::package_lock(&bytes));
            }
        }
        for place in &found.pnpm_locks {
            if let Some(bytes) = self.read(root, place, MAX_DATABASE, inventory)? {
                match locked_packages(&place.to_string(), &bytes) {
                    Some(packages) => locks.extend(packages),
                    None => drop(inventory.notes.insert(format!("{place} is no lockfile that can be read"))),
                }
            }
        }
        for (place, node) in &found.manifests {
            let Some((folder, name)) =
                std::str::from_utf8(place.as_bytes()).ok().and_then(npm::package_folder)
            else {
                continue;
            };
            let Some(bytes) = self.read(root, place, MAX_MANIFEST, inventory)? else { continue };
            let Some(mut package) = npm::package(&bytes, folder, &name) else {
                inventory.notes.insert(format!("{place} is no manifest"));
                continue;
            };
            package.in_base =
                lookup(&trees, &below.tree, place)?.is_some_and(|entry| same_file(&entry.node, node));
            locks.complete(&mut package);
            inventory.add(package);
        }
        locked.iter().for_each(|locked| inventory.add(locked.package()));
        Ok(())
    }
}

/// Looks for manifests and lockfiles, links not followed: what they lead to is found where it is.
fn find(trees: &dyn wbuild_tree::TreeSource, tree: &Subtree) -> Result<Found, EngineError> {
    let mut found = Found::default();
    walk::<EngineError>(trees, tree, &mut |path, entry| {
        let bytes = path.as_bytes();
        let is = |name: &str| {
            bytes.strip_suffix(name.as_bytes()).is_some_and(|rest| rest.is_empty() || rest.ends_with(b"/"))
        };
        if !matches!(entry.node, Node::File { .. }) {
            return Ok(Visit::Into);
        }
        if is("package.json")
            && std::str::from_utf8(bytes).is_ok_and(|text| npm::package_folder(text).is_some())
        {
            found.manifests.push((path.clone(), entry.node.clone()));
        } else if is("package-lock.json") || is("node_modules/.package-lock.json") {
            found.npm_locks.push(path.clone());
        } else if is("pnpm-lock.yaml") || is("node_modules/.pnpm/lock.yaml") {
            found.pnpm_locks.push(path.clone());
        }
        Ok(Visit::Into)
    })?;
    Ok(found)
}

fn same_file(one: &Node, other: &Node) -> bool {
    matches!((one, other), (Node::File { content: a, .. }, Node::File { content: b, .. }) if a == b)
}

/// The packages that a `pnpm-lock.yaml` names, without those of the workspace itself; `None` when it is none.
pub fn locked_packages(name: &str, bytes: &[u8]) -> Option<Vec<Locked>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let lockfile = Lockfile::parse(&SourceFile::new(name, text)).ok()?;
    let foreign = lockfile.snapshots().filter(|(id, _)| lockfile.local_source(*id).is_none());
    let locked = foreign.map(|(id, snapshot)| Locked {
        name: lockfile.name_of(id).to_owned(),
        version: wbuild_attest::without_passwords(lockfile.version_of(id)).into_owned(),
        integrity: lockfile.integrity(id).map(str::to_owned),
        tarball: lockfile.tarball(id).map(str::to_owned),
        optional: snapshot.optional,
    });
    Some(locked.collect())
}

/// `22.16.0`, out of three definitions of the preprocessor.
fn node_version(header: &str) -> Option<String> {
    let number = |name: &str| -> Option<u32> {
        let line = header.lines().find_map(|line| line.strip_prefix("#define ")?.strip_prefix(name))?;
        line.trim().parse().ok()
    };
    let [major, minor, patch] =
        ["NODE_MAJOR_VERSION ", "NODE_MINOR_VERSION ", "NODE_PATCH_VERSION "].map(number);
    Some(format!("{}.{}.{}", major?, minor?, patch?))
}

fn path(text: &str) -> EntryPath {
    EntryPath::parse(text).unwrap_or_default()
}

/// A path without a slash at its beginning.
pub(super) fn plain(path: &EntryPath) -> String {
    path.to_string().trim_start_matches('/').to_owned()
}
