//! Which stages need which: bases, `COPY --from`, `RUN --mount=from=`.

use std::collections::{BTreeMap, BTreeSet};

use wbuild_oci::{Reference, ReferenceParseError};
use wbuild_report::{Diagnostic, Span};

use crate::ast::{Dockerfile, Instruction, Kind, Stage};
use crate::problem::{Problem, shortened};
use crate::scope::FromLine;
use crate::suggest::{did_you_mean, suggest};
use crate::values::csv_fields;

/// What a stage begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Base {
    /// Nothing.
    Scratch,
    /// An earlier stage.
    Stage(usize),
    /// An image, or a named context of that name.
    Image(String),
}

/// What `--from` means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromRef {
    /// A stage of the file.
    Stage(usize),
    /// A named context or an image.
    External(String),
}

/// The dependencies among the stages.
#[derive(Clone, Debug)]
pub struct StageGraph {
    bases: Vec<Base>,
    needs: Vec<Vec<Need>>,
}

/// One use of another stage.
#[derive(Clone, Debug)]
struct Need {
    stage: usize,
    at: Span,
    how: Use,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Use {
    Base,
    Copy(String),
    Mount(String),
}

impl Dockerfile {
    /// The stage that `name` means in `--from` and `--target`: without regard to case, and the last of several.
    pub fn stage_named(&self, name: &str) -> Option<usize> {
        let lower = name.to_lowercase();
        if lower.is_empty() {
            return None;
        }
        self.stages.iter().rposition(|stage| stage.name == lower)
    }

    /// The stage to build; the last one if none is asked for. The file must have stages.
    pub fn target(&self, name: Option<&str>) -> Result<usize, Box<Diagnostic>> {
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            return Ok(self.stages.len().saturating_sub(1));
        };
        self.stage_named(name).ok_or_else(|| {
            let names: Vec<String> = self.stages.iter().map(Stage::display_name).collect();
            let found = suggest(name, names.iter().map(String::as_str));
            let message = format!("target stage {name:?} could not be found{}", did_you_mean(found));
            let named: Vec<String> = self
                .stages
                .iter()
                .filter(|stage| !stage.name.is_empty())
                .map(|stage| format!("`{}`", stage.name))
                .collect();
            let hint = match named.len() {
                0 => "no stage of this file has a name; add one with `FROM … AS name`".to_owned(),
                1..=20 => format!("the stages are {}", named.join(", ")),
                more => format!("the file has {more} stages with names"),
            };
            Box::new(Diagnostic::error(&self.file, shortened(message)).hint(shortened(hint)))
        })
    }

    /// What the value of `COPY --from` means: the index of a stage, its name, or something outside.
    pub fn copy_from(&self, from: &str) -> Result<FromRef, String> {
        match from.parse::<i64>() {
            Ok(index) => match usize::try_from(index) {
                Ok(index) if index < self.stages.len() => Ok(FromRef::Stage(index)),
                _ => Err(format!("invalid stage index {index}")),
            },
            Err(_) => Ok(self.mount_from(from)),
        }
    }

    /// What the value of `from=` in a mount means. A number is no index there.
    pub fn mount_from(&self, from: &str) -> FromRef {
        self.stage_named(from).map_or_else(|| FromRef::External(from.to_owned()), FromRef::Stage)
    }
}

/// A base that cannot be the name of an image. Found in all stages, as in BuildKit.
fn no_image(dockerfile: &Dockerfile, stage: &Stage, base: &str, error: &ReferenceParseError) -> Diagnostic {
    let message =
        shortened(format!("failed to parse stage name {base:?}: invalid reference format: {error}"));
    let problem = Problem::new(message, stage.base.span);
    let problem = match dockerfile.stages.iter().find(|other| other.name.eq_ignore_ascii_case(base)) {
        Some(other) => {
            problem.hint(format!("names of stages are lower-case in FROM: write `FROM {}`", other.name))
        }
        None => problem.hint("names of images are lower-case: `registry/repository:tag`"),
    };
    problem.error(&dockerfile.file)
}

impl StageGraph {
    /// The graph of a file whose FROM lines are evaluated. `replaced` says which stages a named context stands for: those need
    /// nothing. Fails for cycles and stage indexes that do not exist.
    pub fn new(
        dockerfile: &Dockerfile,
        from_lines: &[FromLine],
        replaced: &dyn Fn(&str) -> bool,
    ) -> Result<Self, Vec<Diagnostic>> {
        let mut names: BTreeMap<&str, usize> = BTreeMap::new();
        // As `stage_named`, but not quadratic.
        let last: BTreeMap<&str, usize> = dockerfile
            .stages
            .iter()
            .filter(|stage| !stage.name.is_empty())
            .map(|s| (s.name.as_str(), s.index))
            .collect();
        let mut graph = Self { bases: Vec::new(), needs: Vec::new() };
        let mut errors = Vec::new();
        for (stage, line) in dockerfile.stages.iter().zip(from_lines) {
            // In FROM names count as they are written, and only earlier stages can be meant.
            let base = match names.get(line.base.as_str()) {
                Some(index) => Base::Stage(*index),
                None if line.base == "scratch" => Base::Scratch,
                None => {
                    if let Err(error) = line.base.parse::<Reference>() {
                        errors.push(no_image(dockerfile, stage, &line.base, &error));
                    }
                    Base::Image(line.base.clone())
                }
            };
            if !stage.name.is_empty() {
                names.insert(&stage.name, stage.index);
            }
            let mut needs = Vec::new();
            if let Base::Stage(index) = base {
                needs.push(Need { stage: index, at: stage.base.span, how: Use::Base });
            }
            for instruction in &stage.instructions {
                uses(dockerfile, instruction, &last, &mut needs, &mut errors);
            }
            if replaced(&stage.name) {
                needs.clear();
            }
            graph.bases.push(base);
            graph.needs.push(needs);
        }
        if errors.is_empty()
            && let Some(cycle) = graph.cycle(dockerfile)
        {
            errors.push(cycle);
        }
        if errors.is_empty() { Ok(graph) } else { Err(errors) }
    }

    /// What a stage begins with.
    pub fn base(&self, stage: usize) -> &Base {
        &self.bases[stage]
    }

    /// The stages that a stage needs directly.
    pub fn needs(&self, stage: usize) -> BTreeSet<usize> {
        self.needs[stage].iter().map(|need| need.stage).collect()
    }

    /// The stages that have to be built for `target`, itself included.
    pub fn reachable(&self, target: usize) -> BTreeSet<usize> {
        let mut reached = BTreeSet::new();
        let mut open = vec![target];
        while let Some(stage) = open.pop() {
            if reached.insert(stage) {
                open.extend(self.needs[stage].iter().map(|need| need.stage));
            }
        }
        reached
    }

    /// Uses of stages that come later in the file, among the stages in `built`.
    pub fn forward_uses(&self, dockerfile: &Dockerfile, built: &BTreeSet<usize>) -> Vec<Diagnostic> {
        let mut errors = Vec::new();
        for stage in built {
            for need in self.needs[*stage].iter().filter(|need| need.stage > *stage) {
                let current = dockerfile.stages[*stage].display_name();
                let message = match &need.how {
                    Use::Copy(from) => {
                        format!(
                            "cannot copy from stage {from:?}, it needs to be defined before current stage {current:?}"
                        )
                    }
                    Use::Mount(from) => format!(
                        "cannot mount from stage {from:?} in {current:?}, stage needs to be defined before current command"
                    ),
                    Use::Base => continue,
                };
                let later = &dockerfile.stages[need.stage];
                let problem = Problem::new(message, need.at)
                    .also(later.span, "is defined here")
                    .hint("move that stage up, above this one");
                errors.push(problem.error(&dockerfile.file));
            }
        }
        errors
    }

    /// The first cycle there is, found without recursion.
    fn cycle(&self, dockerfile: &Dockerfile) -> Option<Diagnostic> {
        #[derive(Clone, Copy, PartialEq)]
        enum State {
            New,
            Open,
            Done,
        }
        let mut states = vec![State::New; self.needs.len()];
        for start in 0..self.needs.len() {
            if states[start] != State::New {
                continue;
            }
            states[start] = State::Open;
            let mut path = vec![(start, 0)];
            while let Some((stage, next)) = path.pop() {
                let Some(need) = self.needs[stage].get(next) else {
                    states[stage] = State::Done;
                    continue;
                };
                path.push((stage, next + 1));
                match states[need.stage] {
                    State::Done => {}
                    State::New => {
                        states[need.stage] = State::Open;
                        path.push((need.stage, 0));
                    }
                    State::Open => {
                        let from =
                            path.iter().position(|(stage, _)| *stage == need.stage).unwrap_or_default();
                        return Some(self.describe_cycle(dockerfile, &path[from..]));
                    }
                }
            }
        }
        None
    }

    fn describe_cycle(&self, dockerfile: &Dockerfile, path: &[(usize, usize)]) -> Diagnostic {
        let name = |stage: usize| dockerfile.stages[stage].display_name();
        let first = path.first().map_or(0, |(stage, _)| *stage);
        let message = format!("circular dependency detected on stage: {}", name(first));
        let mut steps = path
            .iter()
            .filter_map(|(stage, next)| self.needs[*stage].get(next - 1).map(|need| (*stage, need)));
        let mut problem = match steps.next() {
            Some((stage, need)) => Problem::new(message, need.at).label(format!(
                "`{}` needs `{}`",
                name(stage),
                name(need.stage)
            )),
            None => Problem::new(message, Span::new(0, 0)),
        };
        for (stage, need) in steps.take(5) {
            problem = problem.also(need.at, format!("`{}` needs `{}`", name(stage), name(need.stage)));
        }
        problem.hint("a stage can use earlier stages only; split one of them in two").error(&dockerfile.file)
    }
}

/// The stages that an instruction takes files from.
fn uses(
    dockerfile: &Dockerfile,
    instruction: &Instruction,
    names: &BTreeMap<&str, usize>,
    needs: &mut Vec<Need>,
    errors: &mut Vec<Diagnostic>,
) {
    let named = |name: &str| names.get(name.to_lowercase().as_str()).copied();
    match &instruction.kind {
        Kind::Copy(copy) => {
            let Some(from) = &copy.from else { return };
            let stage = if from.text.parse::<i64>().is_ok() {
                match dockerfile.copy_from(&from.text) {
                    Ok(FromRef::Stage(index)) => Some(index),
                    Ok(FromRef::External(_)) => None,
                    Err(message) => {
                        let hint = match dockerfile.stages.len() {
                            1 => "the only stage has index 0".to_owned(),
                            count => format!("the stages have indexes from 0 to {}", count - 1),
                        };
                        errors.push(Problem::new(message, from.span).hint(hint).error(&dockerfile.file));
                        None
                    }
                }
            } else {
                named(&from.text)
            };
            if let Some(stage) = stage {
                needs.push(Need { stage, at: from.span, how: Use::Copy(from.text.clone()) });
            }
        }
        Kind::Run(run) => {
            for mount in &run.mounts {
                for field in csv_fields(&mount.text).unwrap_or_default() {
                    if let Some((key, from)) = field.split_once('=')
                        && key.eq_ignore_ascii_case("from")
                        && let Some(stage) = named(from)
                    {
                        needs.push(Need { stage, at: mount.span, how: Use::Mount(from.to_owned()) });
                    }
                }
            }
        }
        _ => {}
    }
}
