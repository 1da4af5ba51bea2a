use crate::{EntryKind, Files, Manifest, ReadError, RelPath};

/// The longest first line that is taken for a `#!`.
const MAX_SHEBANG: usize = 256;

/// Files to put where the package's commands should be, with their content.
///
/// pnpm makes no entry in `.bin` for a command whose file is missing, and at install time all sources are. It reads
/// no more of the file than its `#!`, from which it makes the shim, so the stub has just that. Where the file does
/// not exist yet, because a task makes it, the stub is empty, and the extension decides, as for a file without `#!`.
pub(super) fn stubs(package: &Manifest, files: &dyn Files) -> Result<Vec<(RelPath, String)>, ReadError> {
    let mut paths: Vec<RelPath> = package
        .bin
        .values()
        .filter_map(|path| package.dir.join(path.value.trim_start_matches('/')).ok())
        .collect();
    if let Some(directory) = package
        .bin_directory
        .as_ref()
        .and_then(|path| package.dir.join(path.value.trim_start_matches('/')).ok())
    {
        let entries = files.list(&directory)?;
        let present = entries.iter().filter(|entry| entry.kind != EntryKind::Directory);
        paths.extend(present.map(|entry| directory.child(&entry.name)));
    }
    paths.sort();
    paths.dedup();
    // What an install writes itself is not ours to put there.
    paths.retain(|path| !path.parts().any(|part| part == "node_modules") && *path != package.dir);
    let mut stubs = Vec::with_capacity(paths.len());
    for path in paths {
        let stub = files.read(&path)?.and_then(|content| shebang(&content)).unwrap_or_default();
        stubs.push((path, stub));
    }
    Ok(stubs)
}

fn shebang(content: &[u8]) -> Option<String> {
    let line = content.split(|byte| *byte == b'\n').next()?;
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if !line.starts_with(b"#!") || line.len() > MAX_SHEBANG {
        return None;
    }
    Some(format!("{}\n", std::str::from_utf8(line).ok()?))
}
