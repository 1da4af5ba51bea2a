//! Other people's programs: `docker load`, podman, skopeo, ctr.

use std::io::{self, BufWriter, Read, Write};
use std::process::{Command, Stdio};

use wbuild_image::{ArchiveFormat, ExportError, Others, write_archive, write_layout};
use wbuild_oci::Reference;

use crate::error::LoadError;
use crate::{Loaded, Loading};

/// So much of what a program says is kept.
const MAX_SAID: usize = 64 << 10;

/// The tag in a layout that exists for one program.
const TAG: &str = "wbuild";

/// `docker load`, for engines that are reached in a way only docker knows.
pub(crate) fn docker_load(context: Option<&str>, loading: &Loading<'_>) -> Result<Loaded, LoadError> {
    let mut command = Command::new("docker");
    command.args(context.map(|context| ["--context", context]).into_iter().flatten());
    command.args(["load", "--quiet"]);
    pipe("docker", command, ArchiveFormat::Docker, loading)?;
    let engine = context.map_or_else(|| "docker".to_owned(), |context| format!("docker ({context})"));
    Ok(Loaded { engine, sent: Some(loading.export.layer_bytes()) })
}

/// `ctr image import`.
pub(crate) fn ctr_import(address: &str, namespace: &str, loading: &Loading<'_>) -> Result<Loaded, LoadError> {
    if loading.export.names.is_empty() {
        return Err(LoadError::Nameless { store: "containerd" });
    }
    let mut command = Command::new("ctr");
    command.args(["--address", address, "--namespace", namespace, "images", "import", "-"]);
    pipe("ctr", command, ArchiveFormat::Oci, loading)?;
    let engine = format!("containerd (namespace {namespace})");
    Ok(Loaded { engine, sent: Some(loading.export.layer_bytes()) })
}

/// podman takes what it does not have out of a layout, and calls the image by the layout's folder; the names come after.
pub(crate) fn podman_pull(loading: &Loading<'_>) -> Result<Loaded, LoadError> {
    let name = format!("wbuild-{}-{}", std::process::id(), &loading.export.root.digest.hex()[..12]);
    layout(loading, &name)?;
    let mut pull = Command::new("podman");
    // The whole path would be the name.
    pull.current_dir(loading.scratch).args(["pull", "--quiet", &format!("oci:{name}:{TAG}")]);
    let id = run("podman", pull)?;
    let id = id.lines().last().unwrap_or_default().trim().to_owned();
    let names: Vec<String> = loading.export.names.iter().map(Reference::familiar).collect();
    if !names.is_empty() {
        let mut tag = Command::new("podman");
        tag.args(["tag", &id]).args(&names);
        run("podman", tag)?;
    }
    let mut untag = Command::new("podman");
    untag.args(["untag", &id, &format!("localhost/{name}:latest")]);
    run("podman", untag)?;
    Ok(Loaded { engine: "podman".to_owned(), sent: None })
}

/// skopeo copies what containers-storage does not have; each name is a copy of its own, and after the first one there is
/// nothing left to copy.
pub(crate) fn skopeo_copy(loading: &Loading<'_>) -> Result<Loaded, LoadError> {
    if loading.export.names.is_empty() {
        return Err(LoadError::Nameless { store: "containers-storage" });
    }
    let layout = layout(loading, "layout")?;
    for name in &loading.export.names {
        let mut copy = Command::new("skopeo");
        copy.args(["copy", "--quiet", &format!("oci:{layout}:{TAG}"), &format!("containers-storage:{name}")]);
        run("skopeo", copy)?;
    }
    Ok(Loaded { engine: "containers-storage".to_owned(), sent: None })
}

/// A layout for a program, its blobs linked.
fn layout(loading: &Loading<'_>, name: &str) -> Result<String, LoadError> {
    let folder = loading.scratch.join(name);
    let mut export = loading.export.clone();
    export.names = Vec::new();
    // A tag without a name: the programs look for that alone.
    export.root.annotations.insert("org.opencontainers.image.ref.name".to_owned(), TAG.to_owned());
    write_layout(&folder, &export, loading.blobs, Others::Replace)?;
    Ok(folder.display().to_string())
}

fn shown(command: &Command) -> String {
    let words = [command.get_program()].into_iter().chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Runs a program to its end; gives what it says on standard output.
fn run(program: &'static str, mut command: Command) -> Result<String, LoadError> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|source| LoadError::Start { program, source })?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(LoadError::Program { command: shown(&command), said: end_of(&output.stderr) }),
    }
}

/// Runs a program that reads an archive of the image on its standard input.
fn pipe(
    program: &'static str,
    mut command: Command,
    format: ArchiveFormat,
    loading: &Loading<'_>,
) -> Result<(), LoadError> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let failed = |source| LoadError::Start { program, source };
    let mut child = command.spawn().map_err(failed)?;
    let (input, said) =
        (child.stdin.take(), [child.stdout.take().map(boxed), child.stderr.take().map(boxed)]);
    let readers = said.map(|from| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            // What it says is only for its error message.
            let _ = from.map(|from| from.take(MAX_SAID as u64).read_to_end(&mut bytes));
            bytes
        })
    });
    let written = match input {
        Some(input) => {
            let mut out = BufWriter::with_capacity(256 << 10, input);
            write_archive(loading.export, format, loading.blobs, &mut out)
                .and_then(|()| out.flush().map_err(ExportError::Archive))
        }
        None => Ok(()),
    };
    let status = child.wait().map_err(failed)?;
    let [_, said] = readers.map(|reader| reader.join().unwrap_or_default());
    // A program that ends early is why the pipe broke, and says why.
    if !status.success() {
        return Err(LoadError::Program { command: shown(&command), said: end_of(&said) });
    }
    Ok(written?)
}

fn boxed<R: Read + Send + 'static>(reader: R) -> Box<dyn Read + Send> {
    Box::new(reader)
}

/// The last lines of what a program said.
fn end_of(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(2000)..]).into_owned();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(3)..].join("; ")
}

/// Where only an I/O error can be given, one from an export.
pub(crate) fn as_io(error: ExportError) -> io::Error {
    match error {
        ExportError::Archive(source) => source,
        other => io::Error::other(other),
    }
}
