//! Keys: what enters the preimage of each operation, and why. `cache/keys.md` is this module as a table; a change here
//! without a new version number fails the vectors of the tests.
//!
//! Never in a key: values of secrets, CA bundles, proxies, the isolation mode, numbers of threads, names for people,
//! paths of this machine, times of files.

use wbuild_graph::{
    AccountId, CacheSeed, Capture, Copy, DeltaId, EnvInKey, Environment, Exec, FieldValue, FileAction,
    FileOp, Mount, MountKind, NetworkMode, Op, Owner, Pattern, Preimage, PrivilegeSet, Snapshot, StepTimes,
    Transfer, TransferSource, Unpack, Vertex,
};
use wbuild_oci::Digest;
use wbuild_tree::{
    Directory, Entry, EntryPath, Name, Node, ResolveError, Subtree, TreeLoadError, TreeSource, apply, resolve,
};

use crate::files::{Excludes, Origin, TakeError, TreeRoot, What, account_files, take};

/// Versions of the operations: raise one when its meaning changes, so that old results are not taken for new ones.
mod version {
    pub(super) const EXEC: u32 = 2;
    pub(super) const FILE: u32 = 2;
    pub(super) const ADD_USER: u32 = 1;
    pub(super) const PARTITION: u32 = 1;
    pub(super) const SELECT: u32 = 1;
    pub(super) const ASSERT: u32 = 1;
}

/// What keys need to know besides the graph. Trees are loaded from it.
pub(crate) trait KeyFacts: TreeSource {
    /// `linux/amd64`.
    fn platform(&self) -> String;

    /// Whether the person gave this secret. Whether, never what.
    fn secret_given(&self, id: &str) -> bool;
}

/// The files of a snapshot, if they can be told from trees alone: `None` where base layers, or what a step left on disk, are
/// a part of it.
fn files(trees: &dyn TreeSource, snapshot: &Snapshot) -> Result<Option<Subtree>, TreeLoadError> {
    let mut merged = Subtree::empty();
    for delta in &snapshot.deltas {
        let DeltaId::Tree { tree, .. } = delta else { return Ok(None) };
        merged = apply(trees, &merged, &Subtree::load(trees, *tree)?)?;
    }
    Ok(Some(merged))
}

/// The preimage of a vertex that has a key.
pub(crate) fn describe(
    vertex: &Vertex,
    inputs: &[Snapshot],
    facts: &dyn KeyFacts,
) -> Result<Preimage, TreeLoadError> {
    match &vertex.op {
        Op::Exec(exec) => describe_exec(exec, inputs, facts),
        Op::File(file) => describe_file(file, inputs, facts),
        Op::AddUser(add) => {
            let mut preimage = Preimage::new("add-user", version::ADD_USER);
            preimage.text("user", format!("{}:{}", add.user, add.uid));
            preimage.text("group", format!("{}:{}", add.group, add.gid));
            preimage.text("home", &add.home);
            preimage.text("shell", &add.shell);
            put_stack(&mut preimage, "root", &inputs[0]);
            Ok(preimage)
        }
        Op::Partition(partition) => {
            let mut preimage = Preimage::new("partition", version::PARTITION);
            // Names of parts are for people.
            for (index, part) in partition.parts.iter().enumerate() {
                preimage.list(&format!("part/{index}/include"), &part.include);
                preimage.text(format!("part/{index}/links-only"), part.links_only.to_string());
            }
            put_stack(&mut preimage, "input", &inputs[0]);
            Ok(preimage)
        }
        Op::Select(select) => {
            let mut preimage = Preimage::new("select", version::SELECT);
            preimage.list("include", &select.include);
            preimage.list("exclude", &select.exclude);
            put_stack(&mut preimage, "input", &inputs[0]);
            Ok(preimage)
        }
        Op::Assert(assert) => {
            let mut preimage = Preimage::new("assert", version::ASSERT);
            preimage.list("exists", assert.exists.keys());
            if let Some(below) = &assert.no_dangling_links {
                preimage.text("no-dangling-links", text(below));
            }
            put_stack(&mut preimage, "input", &inputs[0]);
            Ok(preimage)
        }
        Op::Source(_) | Op::Merge | Op::Diff => unreachable!("sources and stacking operations have no key"),
    }
}

/// A path as text that no other path has.
fn text(path: &EntryPath) -> String {
    path.as_bytes().escape_ascii().to_string()
}

/// The deltas of a root file system (decision 1): base layers and trees by content, steps by their key.
fn put_stack(preimage: &mut Preimage, name: &str, snapshot: &Snapshot) {
    preimage.text(format!("{name}/count"), snapshot.deltas.len().to_string());
    for (index, delta) in snapshot.deltas.iter().enumerate() {
        let value = match delta {
            DeltaId::Tree { tree, content } => FieldValue::Tree { content: *content, tree: *tree },
            other => FieldValue::Digest(other.root_key()),
        };
        preimage.add(format!("{name}/{index}"), value);
    }
}

/// What a native copy or a bind mount takes of an input, links followed: its content where trees can tell, else the whole
/// input's keys.
fn put_selection(
    preimage: &mut Preimage,
    name: &str,
    snapshot: &Snapshot,
    path: &EntryPath,
    facts: &dyn KeyFacts,
) -> Result<(), TreeLoadError> {
    let Some(files) = files(facts, snapshot)? else {
        preimage.text(format!("{name}/path"), text(path));
        put_stack(preimage, &format!("{name}/from"), snapshot);
        return Ok(());
    };
    let root = TreeRoot { trees: facts, root: &files };
    let entry = match resolve(&root, path, true) {
        Ok(resolved) => Origin::entry(&root, &resolved.path)?,
        Err(ResolveError::Lookup(error)) => return Err(error),
        Err(_) => None,
    };
    match entry {
        Some(Entry { node: Node::Directory { contents, .. }, .. }) => {
            let value = FieldValue::Tree { content: contents.content(), tree: contents.digest() };
            preimage.add(format!("{name}/files"), value);
        }
        Some(entry) => {
            let base_name = path.split_last().map(|(_, name)| name);
            preimage.add(format!("{name}/file"), FieldValue::Digest(alone(base_name, entry)));
        }
        None => preimage.text(format!("{name}/nothing"), ""),
    }
    Ok(())
}

/// The digest of everything that counts about a file: of a directory with nothing else in it.
fn alone(name: Option<Name>, entry: Entry) -> Digest {
    let mut directory = Directory::default();
    if let Some(name) = name {
        directory.entries.insert(name, entry);
    }
    Subtree::new(directory).content().0
}

fn describe_exec(exec: &Exec, inputs: &[Snapshot], facts: &dyn KeyFacts) -> Result<Preimage, TreeLoadError> {
    let mut preimage = Preimage::new("exec", version::EXEC);
    preimage.text("platform", facts.platform());
    preimage.list("argv", &exec.argv);
    preimage.text("cwd", text(&exec.cwd));
    preimage.text("user", &exec.user);
    preimage.text(
        "network",
        match exec.network {
            // Which network a step sees by default depends on the machine, and is no reason to build again.
            NetworkMode::Default => "default",
            NetworkMode::Host => "host",
            NetworkMode::None => "none",
        },
    );
    preimage.text(
        "privileges",
        match exec.privileges {
            PrivilegeSet::Run => "run",
            PrivilegeSet::Task => "task",
            PrivilegeSet::Insecure => "insecure",
        },
    );
    for Environment { name, value, in_key } in &exec.env {
        let field = format!("env/{name}");
        match in_key {
            EnvInKey::Shown => preimage.text(field, value),
            EnvInKey::Hashed => preimage.add(field, FieldValue::hidden(value)),
            EnvInKey::NameOnly => preimage.text(format!("env-name/{name}"), ""),
            EnvInKey::Never => {}
        }
    }
    for secret in &exec.secret_env {
        preimage.text(format!("secret-env/{}", secret.name), &secret.id);
        if let Some(version) = &secret.version {
            put_baked_secret(&mut preimage, &secret.id, version, facts);
        }
    }
    if let Some(hostname) = &exec.hostname {
        preimage.text("hostname", hostname);
    }
    for (name, _) in &exec.hosts {
        preimage.text(format!("host/{name}"), "");
    }
    for (index, mount) in exec.mounts.iter().enumerate() {
        describe_mount(&mut preimage, index, mount, inputs, facts)?;
    }
    if let Capture::Outputs { include, exclude, expected: _ } = &exec.capture {
        preimage.list("outputs/include", include);
        preimage.list("outputs/exclude", exclude);
    }
    if exec.times == StepTimes::FromContent {
        preimage.text("times", "from-content");
    }
    put_stack(&mut preimage, "root", &inputs[0]);
    Ok(preimage)
}

/// A secret that the step bakes into its output (decision 9): whether it is given decides whether the output is
/// reproducible, so that much counts, and a version that the user sets.
fn put_baked_secret(preimage: &mut Preimage, id: &str, version: &str, facts: &dyn KeyFacts) {
    let given = if facts.secret_given(id) { "given" } else { "not given" };
    preimage.text(format!("secret/{id}"), format!("{given}, version {version}"));
}

fn describe_mount(
    preimage: &mut Preimage,
    index: usize,
    mount: &Mount,
    inputs: &[Snapshot],
    facts: &dyn KeyFacts,
) -> Result<(), TreeLoadError> {
    let name = format!("mount/{index}");
    let target = text(&mount.target);
    match &mount.kind {
        MountKind::Bind { input, source, writable } => {
            let kind = if *writable { "bind-rw" } else { "bind" };
            preimage.text(&name, format!("{kind} {target}"));
            put_selection(preimage, &name, &inputs[*input], source, facts)?;
        }
        // What is in a cache mount, and which one it is, never changes what a step should produce.
        MountKind::Cache(cache) => {
            let owner = (cache.mode, cache.uid, cache.gid);
            let owner = if owner == (0o755, 0, 0) { String::new() } else { owner_text(owner) };
            let inside = if cache.inside.is_root() {
                String::new()
            } else {
                format!(" inside={}", text(&cache.inside))
            };
            preimage.text(&name, format!("cache {target}{owner}{inside}"));
            if let Some(CacheSeed { input, source }) = &cache.seed {
                put_selection(preimage, &format!("{name}/seed"), &inputs[*input], source, facts)?;
            }
        }
        MountKind::Tmpfs { size: None } => preimage.text(&name, format!("tmpfs {target}")),
        MountKind::Tmpfs { size: Some(size) } => preimage.text(&name, format!("tmpfs {target} size={size}")),
        MountKind::Secret { id, mode, uid, gid, version, .. } => {
            let owner = (*mode, *uid, *gid);
            let owner = if owner == (0o400, 0, 0) { String::new() } else { owner_text(owner) };
            preimage.text(&name, format!("secret {target} {id}{owner}"));
            if let Some(version) = version {
                put_baked_secret(preimage, id, version, facts);
            }
        }
        MountKind::Ssh { id, .. } => preimage.text(&name, format!("ssh {target} {id}")),
        MountKind::Script { contents, mode } => {
            preimage.text(&name, format!("script {target} {mode:o}"));
            preimage.add(format!("{name}/contents"), FieldValue::Digest(Digest::of(contents)));
        }
        MountKind::Scratchpad { .. } => {}
    }
    Ok(())
}

/// What a step sees of a mount point besides its content.
fn owner_text((mode, uid, gid): (u16, u32, u32)) -> String {
    format!(" mode={mode:o} uid={uid} gid={gid}")
}

fn describe_file(
    file: &FileOp,
    inputs: &[Snapshot],
    facts: &dyn KeyFacts,
) -> Result<Preimage, TreeLoadError> {
    let mut preimage = Preimage::new("file", version::FILE);
    let owned = |owner: &Owner| format!("{}:{}", owner.uid, owner.gid);
    for (index, action) in file.actions.iter().enumerate() {
        let name = format!("action/{index}");
        match action {
            FileAction::Copy(Copy { input, source, target, owner }) => {
                preimage.text(&name, format!("copy to {}", text(target)));
                if let Some(owner) = owner {
                    preimage.text(format!("{name}/owner"), owned(owner));
                }
                put_selection(&mut preimage, &name, &inputs[*input], source, facts)?;
            }
            FileAction::Transfer(transfer) => {
                describe_transfer(&mut preimage, &name, transfer, inputs, facts)?;
            }
            // Who the user is, the files below say.
            FileAction::Workdir { path, user } => {
                preimage.text(&name, format!("workdir {}", text(path)));
                preimage.text(format!("{name}/owner"), user);
            }
            FileAction::Mkdir { path, mode, owner } => {
                preimage.text(&name, format!("mkdir {} {mode:o} {}", text(path), owned(owner)));
            }
            FileAction::Mkfile { path, contents, mode, owner } => {
                preimage.text(&name, format!("mkfile {} {mode:o} {}", text(path), owned(owner)));
                preimage.add(format!("{name}/contents"), FieldValue::Digest(Digest::of(contents)));
            }
            FileAction::Symlink { path, target, owner } => {
                preimage.text(&name, format!("symlink {} {}", text(path), owned(owner)));
                preimage.text(format!("{name}/target"), target);
            }
            FileAction::Remove { path } => preimage.text(&name, format!("remove {}", text(path))),
        }
    }
    put_stack(&mut preimage, "root", &inputs[0]);
    Ok(preimage)
}

fn describe_transfer(
    preimage: &mut Preimage,
    name: &str,
    transfer: &Transfer,
    inputs: &[Snapshot],
    facts: &dyn KeyFacts,
) -> Result<(), TreeLoadError> {
    let Transfer { sources, target, into_directory, owner, mode, excludes } = transfer;
    let slash = if *into_directory { "/" } else { "" };
    preimage.text(name, format!("transfer to {}{slash}", text(target)));
    if let Some(account) = owner {
        let id = |id: &AccountId| match id {
            AccountId::Number(id) => id.to_string(),
            AccountId::Name(name) => format!("{name:?}"),
        };
        let group = account.group.as_ref().map(|group| format!(":{}", id(group))).unwrap_or_default();
        preimage.text(format!("{name}/owner"), format!("{}{group}", id(&account.user)));
        // What the delta is put on is in the key anyway.
        if account.input != 0 {
            for file in account_files(account) {
                let path = EntryPath::rooted(file).unwrap_or_default();
                put_selection(
                    preimage,
                    &format!("{name}/owner{file}"),
                    &inputs[account.input],
                    &path,
                    facts,
                )?;
            }
        }
    }
    if let Some(mode) = mode {
        preimage.text(format!("{name}/mode"), mode.to_string());
    }
    for (index, source) in sources.iter().enumerate() {
        let name = format!("{name}/source/{index}");
        match source {
            TransferSource::Inline { name: file, contents } => {
                preimage.text(&name, format!("inline {file}"));
                preimage.add(format!("{name}/contents"), FieldValue::Digest(Digest::of(contents)));
            }
            TransferSource::Files { input, pattern, unpack } => {
                let what = match unpack {
                    Unpack::Never => "files",
                    Unpack::Archives => "files, archives unpacked",
                };
                preimage.text(&name, what);
                put_taken(preimage, &name, &inputs[*input], pattern, excludes, facts)?;
            }
        }
    }
    Ok(())
}

/// What a source takes of an input: its content where trees can tell, so that neither the name of a directory nor anything
/// beside it counts; else the pattern, and the whole input's keys.
fn put_taken(
    preimage: &mut Preimage,
    name: &str,
    snapshot: &Snapshot,
    pattern: &Pattern,
    excludes: &[String],
    facts: &dyn KeyFacts,
) -> Result<(), TreeLoadError> {
    if let Some(files) = files(facts, snapshot)? {
        let root = TreeRoot { trees: facts, root: &files };
        let taken = Excludes::new(excludes).and_then(|excludes| take(facts, &root, pattern, &excludes));
        match taken {
            Ok(taken) => {
                preimage.text(format!("{name}/count"), taken.len().to_string());
                for (index, taken) in taken.into_iter().enumerate() {
                    let name = format!("{name}/{index}");
                    match taken.what {
                        // A file has its own name where the target is a directory.
                        What::File(entry) => {
                            preimage
                                .add(format!("{name}/file"), FieldValue::Digest(alone(taken.name, entry)));
                        }
                        What::Directory { contents, passed, mtime: _ } => {
                            let value =
                                FieldValue::Tree { content: contents.content(), tree: contents.digest() };
                            preimage.add(format!("{name}/files"), value);
                            preimage.list(&format!("{name}/passed"), passed.iter().map(text));
                        }
                    }
                }
                return Ok(());
            }
            Err(TakeError::Load(error) | TakeError::Resolve(ResolveError::Lookup(error))) => {
                return Err(error);
            }
            // It fails when it runs, and says why.
            Err(_) => {}
        }
    }
    let (kind, pattern) = match pattern {
        Pattern::Literal(text) => ("path", text),
        Pattern::Wildcard(text) => ("wildcard", text),
        Pattern::Parents(text) => ("parents", text),
    };
    preimage.text(format!("{name}/{kind}"), pattern);
    preimage.list(&format!("{name}/excludes"), excludes);
    put_stack(preimage, &format!("{name}/from"), snapshot);
    Ok(())
}

#[cfg(test)]
#[path = "describe_tests.rs"]
mod tests;
