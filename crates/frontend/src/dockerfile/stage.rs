//! One stage after the other: its base, then its instructions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wbuild_dockerfile::{
    Base, BaseFacts, FromLine, GlobalScope, Instruction, Kind, Stage, StageGraph, StageScope, Step,
    created_by, parse_trigger,
};
use wbuild_graph::{FileAction, FileOp, Files, Graph, ImageRef, Op, Origin, Source, Vertex};
use wbuild_oci::{ImageConfig, Platform};
use wbuild_report::{Diagnostic, SourceFile, Span, VertexId};
use wbuild_tree::EntryPath;

use super::context::{self, NamedContext};
use super::transfer::stands_alone;
use super::{DockerfileInput, ForeignRun, config};
use crate::{HistoryRow, lower};

/// A stage that was lowered, as it is after its last instruction so far.
#[derive(Clone, Debug)]
pub(super) struct StageState {
    /// Its root file system.
    pub(super) vertex: VertexId,
    /// The image below everything.
    pub(super) base_image: Option<ImageRef>,
    /// What it is for.
    pub(super) platform: Platform,
    pub(super) scope: StageScope,
    pub(super) config: ImageConfig,
    /// The rows of the stages below, and its own. Stages on stages share them.
    history: History,
    cmd_set: bool,
}

/// Rows in the order of the instructions, sharing those of the stage below: ten thousand stages on each other have ten
/// thousand rows each.
#[derive(Clone, Debug, Default)]
struct History {
    below: Option<Arc<History>>,
    rows: Vec<HistoryRow>,
}

impl Drop for History {
    /// One after the other: ten thousand stages on each other are too deep for a stack.
    fn drop(&mut self) {
        let mut below = self.below.take();
        while let Some(mut history) = below.and_then(Arc::into_inner) {
            below = history.below.take();
        }
    }
}

impl StageState {
    /// The configuration of the image.
    pub(super) fn finished(&self) -> ImageConfig {
        let mut config = self.config.clone();
        config.config.env =
            self.scope.image_env().entries().iter().map(|(name, value)| format!("{name}={value}")).collect();
        config
    }

    /// All rows above the base image's.
    pub(super) fn rows(&self) -> Vec<HistoryRow> {
        let mut parts = vec![&self.history];
        while let Some(below) = parts.last().and_then(|part| part.below.as_deref()) {
            parts.push(below);
        }
        parts.into_iter().rev().flat_map(|part| part.rows.iter().cloned()).collect()
    }
}

/// Lowering under way.
pub(super) struct Lowering<'a> {
    pub(super) input: &'a DockerfileInput<'a>,
    global: &'a Arc<GlobalScope>,
    stages: &'a StageGraph,
    lines: &'a [FromLine],
    pub(super) graph: Graph,
    /// The root file systems of the stages that are there.
    vertices: BTreeMap<usize, VertexId>,
    /// All of those that a later stage stands on, or that are the target. Not of all: ten thousand stages with a
    /// megabyte of labels each would be too much.
    pub(super) built: BTreeMap<usize, StageState>,
    /// How many stages that are not lowered yet stand on a stage.
    users: BTreeMap<usize, usize>,
    pub(super) errors: Vec<Diagnostic>,
    /// Images whose configuration is wanted.
    pub(super) missing: Vec<ImageRef>,
    /// The steps of each stage.
    pub(super) steps: BTreeMap<String, Vec<VertexId>>,
    /// The first RUN of each other platform.
    pub(super) foreign: Vec<ForeignRun>,
    /// What the ARGs of the stages declare, those of triggers, too.
    pub(super) declared: BTreeSet<String>,
    /// Stages that a trigger uses, and that nothing had asked for.
    pub(super) unreached: BTreeSet<usize>,
    scratch: Option<VertexId>,
    images: Vec<(ImageRef, VertexId)>,
    contexts: BTreeMap<String, VertexId>,
    /// How many steps of one kind a stage had: names them across builds.
    ordinals: BTreeMap<(String, String), usize>,
}

/// The instruction that is lowered, for names and places.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    /// What progress calls the stage.
    pub(super) stage: &'a str,
    /// The instruction.
    pub(super) instruction: &'a Instruction,
    /// `[builder 2/7]`.
    pub(super) position: (usize, usize),
}

impl<'a> Lowering<'a> {
    pub(super) fn new(
        input: &'a DockerfileInput<'a>,
        global: &'a Arc<GlobalScope>,
        stages: &'a StageGraph,
        lines: &'a [FromLine],
    ) -> Self {
        Self {
            input,
            global,
            stages,
            lines,
            graph: Graph::new(),
            vertices: BTreeMap::new(),
            built: BTreeMap::new(),
            users: BTreeMap::new(),
            errors: Vec::new(),
            missing: Vec::new(),
            steps: BTreeMap::new(),
            foreign: Vec::new(),
            declared: BTreeSet::new(),
            unreached: BTreeSet::new(),
            scratch: None,
            images: Vec::new(),
            contexts: BTreeMap::new(),
            ordinals: BTreeMap::new(),
        }
    }

    /// Lowers the stages `wanted`, which come in order and with all that they need. The state of `target` is kept.
    pub(super) fn all(&mut self, wanted: &BTreeSet<usize>, target: usize) {
        *self.users.entry(target).or_default() += 1;
        for index in wanted {
            if let Base::Stage(below) = self.stages.base(*index) {
                *self.users.entry(*below).or_default() += 1;
            }
        }
        for index in wanted {
            self.stage(*index);
        }
    }

    fn keep(&mut self, index: usize, state: StageState) {
        self.vertices.insert(index, state.vertex);
        if self.users.contains_key(&index) {
            self.built.insert(index, state);
        }
    }

    /// The state of a stage for one that stands on it: its own if nobody else will.
    fn take(&mut self, index: usize) -> Option<StageState> {
        let users = self.users.get_mut(&index)?;
        *users -= 1;
        if *users == 0 {
            return self.built.remove(&index);
        }
        let below = self.built.get_mut(&index)?;
        if !below.history.rows.is_empty() {
            let shared = std::mem::take(&mut below.history);
            below.history.below = Some(Arc::new(shared));
        }
        let mut state = below.clone();
        state.scope = below.scope.child();
        Some(state)
    }

    /// Lowers a stage whose needs are lowered. Does nothing when one of them is still missing.
    fn stage(&mut self, index: usize) {
        let input = self.input;
        let stage = &input.dockerfile.stages[index];
        let platform =
            self.lines[index].platform.clone().unwrap_or_else(|| input.settings.target_platform.clone());
        if let Some((name, context)) = context::find(input.contexts, &stage.name, &platform) {
            let (name, context) = (name.to_owned(), context.clone());
            if let Some(mut state) = self.on_context(&name, &context, &platform, stage) {
                // Triggers are for what is built on an image with FROM; here it is the stage itself.
                state.config.config.on_build.clear();
                self.keep(index, state);
            }
            return;
        }
        let Some((mut state, triggers)) = self.base(index, stage, &platform) else { return };
        let mut instructions: Vec<&Instruction> = triggers.iter().collect();
        instructions.extend(&stage.instructions);
        let total = 1 + instructions.iter().filter(|instruction| changes_files(instruction)).count();
        let name = stage.display_name();
        let mut done = 1;
        for instruction in instructions {
            done += usize::from(changes_files(instruction));
            let at = At { stage: &name, instruction, position: (done, total) };
            self.instruction(&mut state, at);
        }
        self.keep(index, state);
    }

    /// What a stage begins with, and the triggers that run first.
    fn base(
        &mut self,
        index: usize,
        stage: &Stage,
        platform: &Platform,
    ) -> Option<(StageState, Vec<Instruction>)> {
        let mut state = match self.stages.base(index) {
            Base::Scratch => self.on_scratch(platform),
            Base::Stage(below) => {
                let mut state = self.take(*below)?;
                state.cmd_set = false;
                state
            }
            Base::Image(reference) => match context::find(self.input.contexts, reference, platform) {
                Some((name, context)) => {
                    let (name, context) = (name.to_owned(), context.clone());
                    self.on_context(&name, &context, platform, stage)?
                }
                None => {
                    let other = !super::same_platform(platform, &self.input.settings.target_platform);
                    let image = ImageRef {
                        reference: reference.clone(),
                        platform: (other || self.lines[index].platform.is_some()).then(|| platform.clone()),
                    };
                    self.on_image(&image, stage)?
                }
            },
        };
        let triggers = std::mem::take(&mut state.config.config.on_build);
        let of = self.lines[index].base.clone();
        let mut read = Vec::new();
        for trigger in triggers {
            match parse_trigger(&of, &trigger) {
                Ok(instruction) => read.push(instruction),
                Err(errors) => self.errors.extend(errors),
            }
        }
        Some((state, read))
    }

    fn on_scratch(&mut self, platform: &Platform) -> StageState {
        let vertex = self.scratch();
        // `--platform` says nothing about an image of what is empty.
        let input = self.input;
        let config = config::empty(&input.settings.target_platform);
        self.state(vertex, None, config, platform)
    }

    fn on_image(&mut self, image: &ImageRef, stage: &Stage) -> Option<StageState> {
        let Some((_, config)) = self.input.images.iter().find(|(known, _)| known == image) else {
            if !self.missing.contains(image) {
                self.missing.push(image.clone());
            }
            return None;
        };
        let vertex = self.image(image, Some(stage));
        let platform = config.platform();
        let mut inherited = lower::from_image(config);
        // Triggers run in the stage, and end with it.
        inherited.config.on_build.clone_from(&config.config.on_build);
        Some(self.state(vertex, Some(image.clone()), inherited, &platform))
    }

    /// A stage that is nothing but a named context.
    fn on_context(
        &mut self,
        name: &str,
        context: &NamedContext,
        platform: &Platform,
        stage: &Stage,
    ) -> Option<StageState> {
        match context {
            NamedContext::Image(image) => self.on_image(image, stage),
            NamedContext::Files => {
                let vertex = self.context(name);
                let config = config::empty(platform);
                let mut state = self.state(vertex, None, config, platform);
                state.history.rows.push(HistoryRow::whole(format!("FROM {name}")));
                Some(state)
            }
        }
    }

    fn state(
        &self,
        vertex: VertexId,
        base_image: Option<ImageRef>,
        config: ImageConfig,
        platform: &Platform,
    ) -> StageState {
        let facts = BaseFacts { env: config::env(&config), workdir: config.config.working_dir.clone() };
        StageState {
            vertex,
            base_image,
            platform: platform.clone(),
            scope: StageScope::new(self.global, &facts),
            config,
            history: History::default(),
            cmd_set: false,
        }
    }

    fn instruction(&mut self, state: &mut StageState, at: At<'_>) {
        let shell = config::shell(&state.config);
        if let Kind::Arg(items) = &at.instruction.kind {
            self.declared.extend(items.iter().map(|item| item.name.text.clone()));
        }
        let declared: Vec<(String, String)> = match &at.instruction.kind {
            Kind::Run(_) => {
                state.scope.declared().iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
            }
            _ => Vec::new(),
        };
        let step = match state.scope.apply(at.instruction) {
            Ok(applied) => applied.step,
            Err(error) => return self.errors.push(*error),
        };
        let declared: Vec<(&str, &str)> = declared.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let row = created_by(&step, &shell, &declared);
        let vertex = match &step {
            Step::Run(run) => self.run(state, run, &shell, at),
            Step::Copy(transfer) => self.transfer(state, transfer, Unpacking::Never, at),
            Step::Add(transfer) => self.transfer(state, transfer, Unpacking::ByDefault, at),
            Step::Workdir(path) if path != "/" => Some(self.workdir(state, path, at)),
            _ => None,
        };
        let changes_files = matches!(step, Step::Run(_) | Step::Copy(_) | Step::Add(_)) || vertex.is_some();
        config::apply(&mut state.config, &step, &mut state.cmd_set);
        if let Some(vertex) = vertex {
            state.vertex = vertex;
        }
        if let Some(row) = row {
            let row = match &step {
                Step::Copy(transfer) | Step::Add(transfer) if stands_alone(transfer) => {
                    HistoryRow::whole(row)
                }
                _ if changes_files => HistoryRow::layer(row),
                _ => HistoryRow::metadata(row),
            };
            state.history.rows.push(row);
        }
    }

    fn workdir(&mut self, state: &StageState, path: &str, at: At<'_>) -> VertexId {
        let path = EntryPath::rooted(path).unwrap_or_default();
        let action = FileAction::Workdir { path, user: state.config.config.user.clone() };
        let op = Op::File(FileOp { actions: vec![action] });
        self.step(op, vec![state.vertex], at)
    }

    /// Adds the vertex of an instruction.
    pub(super) fn step(&mut self, op: Op, inputs: Vec<VertexId>, at: At<'_>) -> VertexId {
        let (done, total) = at.position;
        let keyword = at.instruction.name();
        let many = self.input.dockerfile.stages.len() > 1 || !self.input.dockerfile.stages[0].name.is_empty();
        let stage = if many { format!("{} ", at.stage) } else { String::new() };
        let name = format!("[{stage}{done}/{total}] {}", one_line(&at.instruction.text));
        let ordinal = self.ordinals.entry((at.stage.to_owned(), keyword.clone())).or_default();
        *ordinal += 1;
        let identity = format!("{}/{}/{keyword}#{ordinal}", self.input.project, at.stage);
        let origin = Origin { file: Arc::clone(&at.instruction.file), span: at.instruction.span };
        let vertex =
            self.graph.add(Vertex { op, inputs, name, identity, minor: false, origin: Some(origin) });
        self.steps.entry(at.stage.to_owned()).or_default().push(vertex);
        vertex
    }

    /// Adds a vertex that belongs to an instruction and is not worth a line of its own.
    pub(super) fn part(&mut self, op: Op, inputs: Vec<VertexId>, name: &str, at: At<'_>) -> VertexId {
        let identity = format!("{}/{}/{name}", self.input.project, at.stage);
        let origin = Origin { file: Arc::clone(&at.instruction.file), span: at.instruction.span };
        self.graph.add(Vertex {
            op,
            inputs,
            name: name.to_owned(),
            identity,
            minor: true,
            origin: Some(origin),
        })
    }

    fn plain(&mut self, op: Op, name: String, place: Option<(&Arc<SourceFile>, Span)>) -> VertexId {
        let identity = format!("{}/{name}", self.input.project);
        let origin = place.map(|(file, span)| Origin { file: Arc::clone(file), span });
        self.graph.add(Vertex { op, inputs: Vec::new(), name, identity, minor: true, origin })
    }

    /// Nothing.
    pub(super) fn scratch(&mut self) -> VertexId {
        if let Some(vertex) = self.scratch {
            return vertex;
        }
        let vertex = self.plain(Op::Source(Source::Scratch), "scratch".to_owned(), None);
        self.scratch = Some(vertex);
        vertex
    }

    /// The files of an image.
    fn image(&mut self, image: &ImageRef, stage: Option<&Stage>) -> VertexId {
        if let Some((_, vertex)) = self.images.iter().find(|(known, _)| known == image) {
            return *vertex;
        }
        let file = &self.input.dockerfile.file;
        let place = stage.map(|stage| (file, stage.base.span));
        let vertex =
            self.plain(Op::Source(Source::Image(image.clone())), format!("FROM {}", image.reference), place);
        self.images.push((image.clone(), vertex));
        vertex
    }

    /// All files of a context.
    pub(super) fn context(&mut self, name: &str) -> VertexId {
        if let Some(vertex) = self.contexts.get(name) {
            return *vertex;
        }
        let op = Op::Source(Source::Local { context: name.to_owned(), files: Files::All });
        let shown = if name.is_empty() { "context".to_owned() } else { format!("context {name}") };
        let vertex = self.plain(op, shown, None);
        self.contexts.insert(name.to_owned(), vertex);
        vertex
    }

    /// Files of a stage, a named context or an image.
    pub(super) fn files_of(&mut self, place: Place, platform: &Platform) -> Option<Taken> {
        let name = match place {
            Place::Stage(index) => {
                let Some(vertex) = self.vertices.get(&index) else {
                    self.unreached.insert(index);
                    return None;
                };
                return Some(Taken::Vertex(*vertex));
            }
            Place::Named(name) if name == "scratch" => return Some(Taken::Vertex(self.scratch())),
            Place::Named(name) => name,
        };
        Some(match context::find(self.input.contexts, &name, platform) {
            Some((name, NamedContext::Files)) => Taken::Context(name.to_owned()),
            Some((_, NamedContext::Image(image))) => {
                let image = image.clone();
                Taken::Vertex(self.image(&image, None))
            }
            None => Taken::Vertex(self.image(&ImageRef::new(name), None)),
        })
    }
}

/// What `--from` and `from=` name.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// A stage.
    Stage(usize),
    /// A named context or an image.
    Named(String),
}

/// Where files are taken from.
#[derive(Clone, Debug)]
pub(super) enum Taken {
    /// Of a vertex.
    Vertex(VertexId),
    /// Of a context, of which only what is used is read.
    Context(String),
}

/// What ADD and COPY do with archives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unpacking {
    /// Nothing.
    Never,
    /// Unpack those of a context, unless the flag says otherwise.
    ByDefault,
}

/// Whether an instruction counts as a step: as in BuildKit, those that can change files.
fn changes_files(instruction: &Instruction) -> bool {
    matches!(instruction.kind, Kind::Run(_) | Kind::Copy(_) | Kind::Add(_) | Kind::Workdir(_))
}

/// The text of an instruction on one line, short enough for a progress view.
fn one_line(text: &str) -> String {
    const LONGEST: usize = 300;
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.len() > LONGEST {
        let mut end = LONGEST;
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        line.truncate(end);
        line.push('…');
    }
    line
}
