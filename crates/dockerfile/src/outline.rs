//! What a target can be given, as `docker buildx build --call=outline` tells it.

use std::collections::BTreeMap;
use std::sync::Arc;

use wbuild_report::Diagnostic;

use crate::ast::{ArgItem, Dockerfile, Kind, Stage};
use crate::scope::{BaseFacts, GlobalScope, MountKind, StageScope, Step};
use crate::stages::{Base, StageGraph};

/// What a target can be given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    /// The name of its stage; empty when it has none.
    pub name: String,
    /// What the comment above its FROM says.
    pub description: Option<String>,
    /// The build arguments that it and the stages it needs declare, in the file's order.
    pub args: Vec<OutlineArg>,
    /// Secrets that its steps take, and whether they fail without them.
    pub secrets: BTreeMap<String, bool>,
    /// Agents of SSH, likewise.
    pub agents: BTreeMap<String, bool>,
}

/// A build argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutlineArg {
    /// Its name.
    pub name: String,
    /// Its value: the one given, else the default.
    pub value: Option<String>,
    /// What the comment above it says.
    pub description: Option<String>,
}

/// The outline of the stage `target`. What base images say is not asked for: it changes nothing that is listed.
///
/// # Errors
/// When the file could not be built for a reason that shows without base images.
pub fn outline(
    dockerfile: &Dockerfile,
    global: &Arc<GlobalScope>,
    target: usize,
) -> Result<Outline, Vec<Diagnostic>> {
    let one = |error: Box<Diagnostic>| vec![*error];
    let lines = dockerfile.stages.iter().map(|stage| global.from_line(stage).map_err(one));
    let lines = lines.collect::<Result<Vec<_>, _>>()?;
    let graph = StageGraph::new(dockerfile, &lines, &|_| false)?;
    let reachable = graph.reachable(target);
    let stage = &dockerfile.stages[target];
    let mut outline =
        Outline { name: stage.name.clone(), description: stage.description.clone(), ..Outline::default() };
    let globals = dockerfile.globals.iter().filter_map(|instruction| match &instruction.kind {
        Kind::Arg(items) => Some(items),
        _ => None,
    });
    let first: Vec<&ArgItem> = globals.flatten().collect();
    for item in &first {
        if reachable.iter().any(|stage| begins_with(&dockerfile.stages[*stage], &item.name.text)) {
            let value = global.env().get(&item.name.text).map(str::to_owned);
            outline.arg(item, value, item.description.clone());
        }
    }
    let mut scopes: BTreeMap<usize, StageScope> = BTreeMap::new();
    for index in reachable {
        let mut scope = match graph.base(index) {
            // Bases come before the stages on them.
            Base::Stage(below) if scopes.contains_key(below) => scopes[below].child(),
            _ => StageScope::new(global, &BaseFacts::default()),
        };
        for instruction in &dockerfile.stages[index].instructions {
            match (scope.apply(instruction).map_err(one)?.step, &instruction.kind) {
                (Step::Arg(values), Kind::Arg(items)) => {
                    for (item, (name, value)) in items.iter().zip(values) {
                        let above = first.iter().find(|above| above.name.text == name);
                        let told = item.description.clone();
                        let description = told.or_else(|| above.and_then(|above| above.description.clone()));
                        outline.arg(item, value, description);
                    }
                }
                (Step::Run(run), _) => {
                    for mount in &run.mounts {
                        match &mount.kind {
                            MountKind::Secret { id, required, .. } => {
                                *outline.secrets.entry(id.clone()).or_default() |= required;
                            }
                            MountKind::Ssh { id, required, .. } => {
                                *outline.agents.entry(id.clone()).or_default() |= required;
                            }
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        scopes.insert(index, scope);
    }
    Ok(outline)
}

impl Outline {
    /// The first declaration of a name decides where it stands; a later one may say more about it.
    fn arg(&mut self, item: &ArgItem, value: Option<String>, description: Option<String>) {
        let name = &item.name.text;
        match self.args.iter_mut().find(|known| known.name == *name) {
            Some(known) => {
                known.value = value.or_else(|| known.value.take());
                known.description = known.description.take().or(description);
            }
            None => self.args.push(OutlineArg { name: name.clone(), value, description }),
        }
    }
}

/// Whether the FROM line of a stage uses a variable.
fn begins_with(stage: &Stage, name: &str) -> bool {
    let words = [Some(&stage.base), stage.platform.as_ref()];
    words.into_iter().flatten().any(|word| {
        word.text.split('$').skip(1).any(|rest| {
            let rest = rest.strip_prefix('{').unwrap_or(rest);
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            rest[..end] == *name
        })
    })
}
