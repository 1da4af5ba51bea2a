//! Docker's API, which podman answers, too.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use wbuild_image::{ArchiveFormat, write_archive};
use wbuild_oci::{DiffId, Digest, ImageConfig, Reference};

use crate::error::LoadError;
use crate::http::{Address, Answer, request};
use crate::program::as_io;
use crate::{Loaded, Loading};

/// Docker 19.03 speaks it, and so does every later one, and podman.
const VERSION: &str = "/v1.40";

/// So many images are looked at for layers in common.
const MAX_LOOKS: usize = 64;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Info {
    driver_status: Option<Vec<Vec<String>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Version {
    components: Option<Vec<Component>>,
}

/// Docker has an `Engine`, podman a `Podman Engine`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Component {
    name: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    id: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
struct Inspected {
    #[serde(rename = "RootFS", default)]
    root_fs: RootFs,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RootFs {
    layers: Option<Vec<DiffId>>,
}

struct Api<'a>(&'a Address);

/// See [`crate::reach`].
pub(crate) fn reach(address: &Address) -> Result<(), LoadError> {
    // What it says to that is its business, as long as it says something.
    Api(address).ask("GET", "/_ping").map(drop)
}

/// See [`crate::load`].
pub(crate) fn load(address: &Address, loading: &Loading<'_>) -> Result<Loaded, LoadError> {
    let api = Api(address);
    let loaded = |sent| Ok(Loaded { engine: api.name(), sent: Some(sent) });
    let id = loading.image.config.descriptor.digest;
    // Everything is there already: names are all that it needs.
    for id in [id, loading.export.root.digest] {
        if api.get::<Inspected>(&format!("/images/{id}/json"), "look for the image")?.is_some() {
            api.tag(&id, &loading.export.names)?;
            return loaded(0);
        }
    }
    let known = match api.takes_known_layers()? {
        true => api.known_layers(loading)?,
        false => BTreeSet::new(),
    };
    if !known.is_empty() {
        let mut export = loading.export.clone();
        export.leave_out(&known);
        match api.send(&Loading { export: &export, ..*loading }) {
            Ok(()) => return loaded(export.layer_bytes()),
            // What it had a moment ago it may have no more.
            Err(LoadError::Refused { .. }) => {}
            Err(other) => return Err(other),
        }
    }
    api.send(loading)?;
    loaded(loading.export.layer_bytes())
}

impl Api<'_> {
    fn name(&self) -> String {
        format!("docker at {}", self.0)
    }

    fn ask(&self, method: &str, target: &str) -> Result<Answer, LoadError> {
        request(self.0, method, &format!("{VERSION}{target}"), None)
            .map_err(|source| LoadError::Unreachable { address: self.0.to_string(), source })
    }

    fn refused(&self, what: &str, body: &[u8]) -> LoadError {
        #[derive(Deserialize)]
        struct Message {
            message: String,
        }
        let said = match serde_json::from_slice::<Message>(body) {
            Ok(Message { message }) => message,
            Err(_) => String::from_utf8_lossy(&body[..body.len().min(500)]).into_owned(),
        };
        LoadError::Refused { address: self.0.to_string(), what: what.to_owned(), said }
    }

    /// `None` when there is no such thing.
    fn get<T: DeserializeOwned>(&self, target: &str, what: &str) -> Result<Option<T>, LoadError> {
        let answer = self.ask("GET", target)?;
        match answer.status {
            200 => {
                let parsed = serde_json::from_slice(&answer.body);
                parsed.map(Some).map_err(|error| self.refused(what, error.to_string().as_bytes()))
            }
            404 => Ok(None),
            _ => Err(self.refused(what, &answer.body)),
        }
    }

    /// Whether layers that are known by chain may be missing in an archive: docker with a graph driver never looks for
    /// their files. containerd's store and podman do.
    fn takes_known_layers(&self) -> Result<bool, LoadError> {
        let info: Info = self.get("/info", "say what it is")?.unwrap_or_default();
        let is_containerd =
            info.driver_status.iter().flatten().flatten().any(|word| word.contains("containerd"));
        let version: Version = self.get("/version", "say what it is")?.unwrap_or_default();
        let is_docker = version.components.iter().flatten().any(|component| component.name == "Engine");
        Ok(is_docker && !is_containerd)
    }

    /// Blobs of layers that some image here has in the same places.
    fn known_layers(&self, loading: &Loading<'_>) -> Result<BTreeSet<Digest>, LoadError> {
        let Ok(config) = serde_json::from_slice::<ImageConfig>(&loading.image.config.bytes) else {
            return Ok(BTreeSet::new());
        };
        let own = &config.rootfs.diff_ids;
        let mut images: Vec<Listed> = self.get("/images/json", "list its images")?.unwrap_or_default();
        // An earlier build of the same name is the best guess.
        let names: Vec<String> = loading.export.names.iter().map(Reference::familiar).collect();
        let is_ours = |image: &Listed| image.repo_tags.iter().flatten().any(|tag| names.contains(tag));
        images.sort_by_key(|image| !is_ours(image));
        let mut most = 0;
        for image in images.iter().take(MAX_LOOKS) {
            let found: Option<Inspected> =
                self.get(&format!("/images/{}/json", image.id), "show an image")?;
            let theirs = found.and_then(|found| found.root_fs.layers).unwrap_or_default();
            most = most.max(own.iter().zip(&theirs).take_while(|(own, theirs)| own == theirs).count());
            if most + 1 >= own.len() {
                break;
            }
        }
        let (known, rest) = loading.image.layers.split_at(most.min(loading.image.layers.len()));
        // The same blob may stand higher up, too, where nobody knows it.
        let needed: BTreeSet<Digest> = rest.iter().map(|layer| layer.digest).collect();
        Ok(known.iter().map(|layer| layer.digest).filter(|digest| !needed.contains(digest)).collect())
    }

    fn send(&self, loading: &Loading<'_>) -> Result<(), LoadError> {
        let mut body = |out: &mut dyn std::io::Write| {
            write_archive(loading.export, ArchiveFormat::Docker, loading.blobs, out).map_err(as_io)
        };
        let target = format!("{VERSION}/images/load?quiet=1");
        let answer = request(self.0, "POST", &target, Some(&mut body));
        let answer = answer.map_err(|source| match source.downcast::<wbuild_image::ExportError>() {
            Ok(export) => LoadError::Export(export),
            Err(source) => LoadError::Unreachable { address: self.0.to_string(), source },
        })?;
        if answer.status != 200 {
            return Err(self.refused("load the image", &answer.body));
        }
        // Messages, one JSON object after the other; errors are among them.
        #[derive(Deserialize)]
        struct Message {
            error: Option<String>,
        }
        let messages = serde_json::Deserializer::from_slice(&answer.body).into_iter::<Message>();
        for message in messages.map_while(Result::ok) {
            if let Some(said) = message.error {
                return Err(self.refused("load the image", said.as_bytes()));
            }
        }
        Ok(())
    }

    fn tag(&self, id: &Digest, names: &[Reference]) -> Result<(), LoadError> {
        for name in names {
            let short = Reference { tag: None, digest: None, ..name.clone() }.familiar();
            let tag = name.tag.as_deref().unwrap_or("latest");
            let target = format!("/images/{id}/tag?repo={}&tag={tag}", encoded(&short));
            let answer = self.ask("POST", &target)?;
            if answer.status != 201 {
                return Err(self.refused("name the image", &answer.body));
            }
        }
        Ok(())
    }
}

/// Names of repositories have few letters that mean something in a URL.
fn encoded(name: &str) -> String {
    name.replace('/', "%2F").replace(':', "%3A").replace('[', "%5B").replace(']', "%5D")
}
