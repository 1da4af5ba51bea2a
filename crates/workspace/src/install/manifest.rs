use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::settings::{Selector, selector_name};
use crate::{Closure, Manifest, Reference, Workspace};

/// The fields of a `package.json` that `pnpm install` reads. Everything else (scripts, descriptions, exports, and
/// the version unless a range asks for it) can change without a new install.
pub const MANIFEST_FIELDS: [&str; 14] = [
    "name",
    "dependencies",
    "devDependencies",
    "optionalDependencies",
    "peerDependencies",
    "peerDependenciesMeta",
    "dependenciesMeta",
    "bin",
    "engines",
    "os",
    "cpu",
    "libc",
    // Of these two, only the part that is named in `reduce`.
    "directories",
    "publishConfig",
];

/// The fields that pnpm reads of the root's `package.json` beside [`MANIFEST_FIELDS`].
pub const ROOT_MANIFEST_FIELDS: [&str; 4] = ["packageManager", "devEngines", "pnpm", "resolutions"];

/// The text of the reduced manifest: sorted keys, two spaces, so that how the original was written does not matter.
pub(super) fn reduce(
    workspace: &Workspace,
    closure: &Closure,
    package: &Manifest,
    patches: &BTreeSet<&str>,
) -> String {
    let mut fields = Map::new();
    let of_root = ROOT_MANIFEST_FIELDS.iter().filter(|_| package.dir.is_root());
    for field in MANIFEST_FIELDS.iter().chain(of_root) {
        let Some(node) = package.document.get(field).filter(|node| !node.is_empty()) else { continue };
        let mut value = node.to_json();
        match *field {
            "directories" => retain(&mut value, &["bin"]),
            "publishConfig" => retain(&mut value, &["directory", "linkDirectory", "bin"]),
            "pnpm" => retain_patches(&mut value, patches),
            _ => {}
        }
        if !value.as_object().is_some_and(Map::is_empty) {
            fields.insert((*field).to_owned(), value);
        }
    }
    if !package.dir.is_root()
        && let Some(environment) = package.document.get("pnpm").and_then(|pnpm| pnpm.get("executionEnv"))
    {
        fields.insert("pnpm".to_owned(), serde_json::json!({ "executionEnv": environment.to_json() }));
    }
    if let Some(version) = package.version.as_ref().filter(|_| needs_version(workspace, closure, package)) {
        fields.insert("version".to_owned(), Value::String(version.clone()));
    }
    let mut text = serde_json::to_string_pretty(&Value::Object(fields)).unwrap_or_default();
    text.push('\n');
    text
}

fn retain(value: &mut Value, keys: &[&str]) {
    if let Some(map) = value.as_object_mut() {
        map.retain(|key, _| keys.contains(&key.as_str()));
    }
}

fn retain_patches(pnpm: &mut Value, patches: &BTreeSet<&str>) {
    let Some(pnpm) = pnpm.as_object_mut() else { return };
    if let Some(list) = pnpm.get_mut("patchedDependencies").and_then(Value::as_object_mut) {
        list.retain(|selector, _| patches.contains(selector.as_str()));
        if list.is_empty() {
            pnpm.remove("patchedDependencies");
        }
    }
}

/// Whether pnpm compares the package's version with something: a range by which another package of the closure links
/// to it, or a selector with a range.
fn needs_version(workspace: &Workspace, closure: &Closure, package: &Manifest) -> bool {
    let lockfile = &workspace.lockfile;
    let linked_by_range = closure.packages.keys().filter_map(|dir| lockfile.importer(dir)).any(|importer| {
        importer.dependencies.iter().any(|dependency| {
            let Reference::Link(path) = lockfile.resolve(dependency.name, dependency.version) else {
                return false;
            };
            importer.dir.join(path).as_ref() == Ok(&package.dir)
                && compares_version(lockfile.text(dependency.specifier))
        })
    });
    let Some(name) = &package.name else { return linked_by_range };
    let settings = &workspace.settings;
    let parent_with_range = settings.overrides.keys().any(|selector| {
        Selector::parse(selector).is_some_and(|parsed| parsed.parent == Some(name.value.as_str()))
    });
    let extension_with_range = settings
        .package_extensions
        .iter()
        .flat_map(|node| node.value.members())
        .any(|member| selector_name(&member.key) == name.value && member.key != name.value);
    linked_by_range || parent_with_range || extension_with_range
}

fn compares_version(specifier: &str) -> bool {
    if specifier.starts_with("link:") || specifier.starts_with("file:") {
        return false;
    }
    match specifier.strip_prefix("workspace:") {
        Some(range) => !matches!(range, "*" | "^" | "~") && !range.starts_with('.'),
        // A plain range that was linked, as `linkWorkspacePackages` has it.
        None => true,
    }
}
