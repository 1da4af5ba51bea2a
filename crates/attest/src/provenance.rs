use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// The type of the predicate (slsa.dev/spec/v1.0/provenance).
pub const PROVENANCE_TYPE: &str = "https://slsa.dev/provenance/v1";

/// Who built it, unless somebody says so who can be trusted in that.
const BUILDER: &str = "urn:wbuild:builder";

/// How much is told, as `docker buildx` names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Inputs by digest, and the keys of steps: nothing that somebody typed.
    #[default]
    Min,
    /// Build arguments, the description itself, and what every key was computed from.
    Max,
}

/// Something that the build took from outside.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dependency {
    /// Where it is, if that is no place on this machine.
    pub uri: Option<String>,
    /// What people call it.
    pub name: Option<String>,
    /// What it was, by algorithm: `sha256`, `gitCommit`, or one of this project's own for trees.
    pub digest: BTreeMap<String, String>,
    /// What else is known.
    pub annotations: BTreeMap<String, String>,
}

/// A step, by its cache key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepKey {
    /// As progress shows it.
    pub name: String,
    /// The key in hexadecimal digits: SHA-256 over the fields.
    pub key: String,
    /// What it was computed from, in order: name and value.
    pub preimage: Vec<(String, String)>,
}

/// How an image came to be.
#[derive(Clone, Debug)]
pub struct Provenance {
    /// How much of it is told.
    pub mode: Mode,
    /// Which kind of build it was: a URI.
    pub build_type: String,
    /// Who vouches for it: a URI; this program when nothing is given.
    pub builder: Option<String>,
    /// The release of wbuild.
    pub version: String,
    /// What the person who built asked for, in any mode.
    pub parameters: Map<String, Value>,
    /// What they typed beside: told in [`Mode::Max`] only.
    pub typed: Map<String, Value>,
    /// What wbuild and this machine decided.
    pub internal: Map<String, Value>,
    /// What was taken from outside.
    pub dependencies: Vec<Dependency>,
    /// The steps that the result consists of, in the order of the graph.
    pub steps: Vec<StepKey>,
}

impl Provenance {
    /// The predicate. Without the times of the build and a number for it, which would differ for the same image.
    pub fn predicate(&self) -> Value {
        let mut parameters = self.parameters.clone();
        if self.mode == Mode::Max {
            parameters.extend(self.typed.clone());
        }
        let mut dependencies = self.dependencies.clone();
        dependencies.sort();
        dependencies.dedup();
        let mut internal = self.internal.clone();
        let steps: Vec<Value> = self.steps.iter().map(|step| self.step(step)).collect();
        internal.insert("steps".to_owned(), steps.into());
        json!({
            "buildDefinition": {
                "buildType": self.build_type,
                "externalParameters": parameters,
                "internalParameters": internal,
                "resolvedDependencies": dependencies.iter().map(dependency).collect::<Vec<_>>(),
            },
            "runDetails": {
                "builder": {
                    "id": self.builder.as_deref().unwrap_or(BUILDER),
                    "version": { "wbuild": self.version },
                },
            },
        })
    }

    fn step(&self, step: &StepKey) -> Value {
        let mut value = json!({ "key": { "sha256": step.key } });
        if self.mode == Mode::Max {
            let field = |(name, value): &(String, String)| json!({ "name": name, "value": value });
            value["name"] = step.name.as_str().into();
            value["preimage"] = step.preimage.iter().map(field).collect::<Vec<_>>().into();
        }
        value
    }
}

fn dependency(dependency: &Dependency) -> Value {
    let Dependency { uri, name, digest, annotations } = dependency;
    let mut value = json!({ "digest": digest });
    for (key, text) in [("uri", uri), ("name", name)] {
        if let Some(text) = text {
            value[key] = text.as_str().into();
        }
    }
    if !annotations.is_empty() {
        value["annotations"] = json!(annotations);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provenance(mode: Mode) -> Provenance {
        let dependency = |name: &str| Dependency {
            uri: None,
            name: Some(name.to_owned()),
            digest: BTreeMap::from([("sha256".to_owned(), "00".to_owned())]),
            annotations: BTreeMap::new(),
        };
        Provenance {
            mode,
            build_type: "urn:wbuild:test".to_owned(),
            builder: None,
            version: "1".to_owned(),
            parameters: Map::from_iter([("target".to_owned(), "web".into())]),
            typed: Map::from_iter([("args".to_owned(), json!({ "A": "1" }))]),
            internal: Map::new(),
            dependencies: vec![dependency("b"), dependency("a"), dependency("b")],
            steps: vec![StepKey {
                name: "RUN true".to_owned(),
                key: "12".to_owned(),
                preimage: vec![("operation".to_owned(), "exec/1".to_owned())],
            }],
        }
    }

    #[test]
    fn what_was_typed_is_only_told_in_full() {
        let min = provenance(Mode::Min).predicate();
        let definition = &min["buildDefinition"];
        assert_eq!(definition["externalParameters"], json!({ "target": "web" }));
        assert_eq!(definition["internalParameters"]["steps"], json!([{ "key": { "sha256": "12" } }]));
        let names = definition["resolvedDependencies"].as_array().unwrap().iter();
        assert_eq!(names.map(|entry| entry["name"].as_str().unwrap()).collect::<Vec<_>>(), ["a", "b"]);
        let max = provenance(Mode::Max).predicate();
        let definition = &max["buildDefinition"];
        assert_eq!(definition["externalParameters"]["args"]["A"], "1");
        assert_eq!(definition["internalParameters"]["steps"][0]["preimage"][0]["value"], "exec/1");
    }
}
