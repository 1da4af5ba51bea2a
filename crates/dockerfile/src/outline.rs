//! What a target can be given, as `docker buildx build --call=outline` tells it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wbuild_report::Diagnostic;

use crate::ast::{ArgItem, Dockerfile, Kind, LineRange, Stage};
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
    /// Secrets that its steps take, in the file's order.
    pub secrets: Vec<OutlineMount>,
    /// Agents of SSH, likewise.
    pub agents: Vec<OutlineMount>,
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
    /// Where it is declared first.
    pub lines: LineRange,
}

/// A secret or an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutlineMount {
    /// Its name.
    pub id: String,
    /// Whether a step fails without it.
    pub required: bool,
    /// Where it is asked for first.
    pub lines: LineRange,
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
        Kind::Arg(items) => Some(items.iter().map(|item| (item, instruction.lines))),
        _ => None,
    });
    let first: Vec<(&ArgItem, LineRange)> = globals.flatten().collect();
    let mut used: BTreeSet<&str> = BTreeSet::new();
    // Last ones first: a default can use what stands above it.
    for (item, lines) in first.iter().rev() {
        let name = item.name.text.as_str();
        if used.contains(name) || reachable.iter().any(|stage| begins_with(&dockerfile.stages[*stage], name))
        {
            let default = item.default.as_ref();
            used.extend(
                first
                    .iter()
                    .map(|(above, _)| above.name.text.as_str())
                    .filter(|above| default.is_some_and(|default| uses(&default.text, above))),
            );
            let value = global.env().get(name).map(str::to_owned);
            outline.arg(item, value, item.description.clone(), *lines);
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
                        let above = first.iter().find(|(above, _)| above.name.text == name);
                        let told = item.description.clone();
                        let description =
                            told.or_else(|| above.and_then(|(above, _)| above.description.clone()));
                        // Without a value of its own it is the one above.
                        let lines = match above.filter(|_| item.default.is_none()) {
                            Some((_, lines)) => *lines,
                            None => instruction.lines,
                        };
                        outline.arg(item, value, description, lines);
                    }
                }
                (Step::Run(run), _) => {
                    for mount in &run.mounts {
                        match &mount.kind {
                            MountKind::Secret { id, required, .. } => {
                                note(&mut outline.secrets, id, *required, instruction.lines);
                            }
                            MountKind::Ssh { id, required, .. } => {
                                note(&mut outline.agents, id, *required, instruction.lines);
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
    outline.args.sort_by_key(|arg| arg.lines.first);
    outline.secrets.sort_by_key(|secret| secret.lines.first);
    outline.agents.sort_by_key(|agent| agent.lines.first);
    Ok(outline)
}

fn note(list: &mut Vec<OutlineMount>, id: &str, required: bool, lines: LineRange) {
    match list.iter_mut().find(|known| known.id == id) {
        Some(known) => known.required |= required,
        None => list.push(OutlineMount { id: id.to_owned(), required, lines }),
    }
}

impl Outline {
    /// The first declaration of a name decides where it stands; a later one may say more about it.
    fn arg(&mut self, item: &ArgItem, value: Option<String>, description: Option<String>, lines: LineRange) {
        let name = &item.name.text;
        match self.args.iter_mut().find(|known| known.name == *name) {
            Some(known) => {
                known.value = value.or_else(|| known.value.take());
                known.description = known.description.take().or(description);
            }
            None => self.args.push(OutlineArg { name: name.clone(), value, description, lines }),
        }
    }
}

/// Whether the FROM line of a stage uses a variable.
fn begins_with(stage: &Stage, name: &str) -> bool {
    let words = [Some(&stage.base), stage.platform.as_ref()];
    words.into_iter().flatten().any(|word| uses(&word.text, name))
}

/// Whether a text has a variable in it.
fn uses(text: &str, name: &str) -> bool {
    text.split('$').skip(1).any(|rest| {
        let rest = rest.strip_prefix('{').unwrap_or(rest);
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        rest[..end] == *name
    })
}
