//! One build session: opened, given contexts, asked to solve a definition, asked to write its images.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use wbuild_context::ListOptions;
use wbuild_frontend::{Definition, Target};
use wbuild_graph::ImageRef;
use wbuild_oci::{ImageConfig, Platform};
use wbuild_report::EventSink;
use wbuild_solver::{Cancellation, Heard, NoCache, Solution, SolveError, Solver};
use wbuild_store::Store;

use crate::contexts::LocalContext;
use crate::early::Early;
use crate::error::EngineError;
use crate::faces::Inspected;
use crate::images::{BaseImages, ImageLocation, OpenedImage};
use crate::remote::{Following, Remotes, is_for_sources};
use crate::secrets::Secrets;
use crate::sharing::Shared;
use crate::step::LogFolder;
use crate::trust::Trust;
use crate::worker::{Engine, secrets_asked_for};

/// How steps are isolated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IsolationMode {
    /// The best that this machine allows.
    #[default]
    Auto,
    /// Namespaces and an overlay, or an error.
    Overlay,
    /// Not at all: files are copied and configurations set, and a step that would run something is an error.
    NoRun,
}

/// What a session is opened with.
#[derive(Debug)]
pub struct Options {
    /// The state directory.
    pub home: PathBuf,
    /// For which platform.
    pub platform: Platform,
    /// Where base images are, by name as written after `FROM`.
    pub images: BTreeMap<String, ImageLocation>,
    /// The secrets that were given.
    pub secrets: Secrets,
    /// Sockets of SSH agents that were given, by name.
    pub agents: BTreeMap<String, PathBuf>,
    /// How steps are isolated.
    pub isolation: IsolationMode,
}

/// How to solve.
#[derive(Debug)]
pub struct SolveOptions {
    /// Where to say what happens.
    pub events: EventSink,
    /// When to stop.
    pub cancellation: Cancellation,
    /// How many steps run at once.
    pub jobs: usize,
    /// What may not be reused.
    pub no_cache: NoCache,
    /// What `events` has heard of the definition before.
    pub heard: Heard,
}

impl Engine {
    /// Opens a session. Reads the machine's CA bundle and proxies from `variable`.
    ///
    /// # Errors
    /// When the state directory cannot be used, or a variable names an unreadable bundle.
    pub fn open(options: Options, variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, EngineError> {
        let store = Store::open(&options.home)?;
        store.workspace()?;
        let images = Arc::new(BaseImages::new(options.images));
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Self {
            store,
            images,
            contexts: BTreeMap::new(),
            secrets: options.secrets,
            agents: options.agents,
            isolate: options.isolation,
            trust: Trust::of_machine(variable)?,
            platform: options.platform,
            build_id: format!("{}-{:06}-{}", since.as_secs(), since.subsec_micros(), std::process::id()),
            logs: LogFolder::default(),
            machine: OnceLock::new(),
            undeclared: Mutex::default(),
            remotes: Remotes::of_machine(variable),
            transfers: Arc::default(),
            early: Early::default(),
            inspected: Inspected::default(),
            shared: Shared::default(),
            turbo: None,
        })
    }

    /// Lists a folder as a context of this session.
    ///
    /// # Errors
    /// When it cannot be listed.
    pub fn list_context(&self, path: &Path, options: ListOptions) -> Result<LocalContext, EngineError> {
        LocalContext::open(path, options, &self.store)
    }

    /// Takes a context in under a name; the main one is `""`.
    pub fn add_context(&mut self, name: &str, context: LocalContext) {
        self.contexts.insert(name.to_owned(), context);
    }

    /// The config of a base image.
    ///
    /// # Errors
    /// When it is not at hand or not what its digests say.
    pub fn image_config(&self, reference: &ImageRef) -> Result<ImageConfig, EngineError> {
        Ok(self.open_image(reference)?.image.config.clone())
    }

    pub(crate) fn open_image(&self, image: &ImageRef) -> Result<Arc<OpenedImage>, EngineError> {
        self.images.open(&image.reference, image.platform.as_ref().unwrap_or(&self.platform))
    }

    /// The name of this session, no other has it: of its logs, and of the build in metadata files.
    pub fn build_id(&self) -> &str {
        &self.build_id
    }

    /// Which CA bundle steps get, for `doctor`.
    pub fn trust_in_words(&self) -> String {
        self.trust.in_words()
    }

    /// The secrets that were given.
    pub fn secrets_given(&self) -> BTreeSet<String> {
        self.secrets.ids()
    }

    /// Solves what a target needs; its files are at hand afterwards as far as an export needs them.
    ///
    /// # Errors
    /// The first failure.
    pub fn solve(
        self: &Arc<Self>,
        definition: &Definition,
        target: &Target,
        options: &SolveOptions,
    ) -> Result<Solution, SolveError<EngineError>> {
        let asked = secrets_asked_for(&definition.graph);
        let given = self.secrets.ids();
        for id in given.difference(&asked).filter(|id| !is_for_sources(id)) {
            let hint = format!("steps ask for: {}", asked.iter().cloned().collect::<Vec<_>>().join(", "));
            let message = format!("the secret `{id}` was given, but no step asks for it");
            options.events.warn(None, message, if asked.is_empty() { Vec::new() } else { vec![hint] });
        }
        self.begin_sharing(&options.events);
        let (events, cancellation) = (options.events.clone(), options.cancellation.clone());
        let following = Following { events, cancellation };
        if let Some(registries) = self.images.registries.get() {
            registries.follow(following.clone());
        }
        self.remotes.follow(following);
        self.transfers
            .follow(options.events.clone(), u32::try_from(definition.graph.len()).unwrap_or(u32::MAX));
        let solver =
            Solver::new(Arc::clone(self), options.events.clone(), options.cancellation.clone(), options.jobs)
                .without_cache(options.no_cache.clone())
                .telling(options.heard.clone());
        solver.solve(&Arc::new(definition.graph.clone()), &[target.vertex], &[target.vertex])
    }
}
