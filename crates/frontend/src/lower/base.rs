use wbuild_graph::{
    Capture, Exec, FileAction, FileOp, ImageRef, NetworkMode, Op, PrivilegeSet, Source, StepLimits, StepTimes,
};

use super::environment::Environments;
use super::{BY_ROOT, Lowering, Stage, root};
use crate::HistoryRow;

impl Lowering<'_> {
    /// The base image with the tools on it.
    pub(super) fn base(&mut self, environments: &Environments) -> Stage {
        let spec = self.spec();
        let reference = spec.base.clone();
        let image = Op::Source(Source::Image(ImageRef::new(&reference)));
        let image = self.add_minor("base/image", format!("[base] {reference}"), image, Vec::new());
        let mkdir = FileAction::Mkdir { path: root(), mode: 0o755, owner: BY_ROOT };
        let mkdir = Op::File(FileOp { actions: vec![mkdir] });
        let mut vertex = self.add_minor("base/workdir", "[base] /app", mkdir, vec![image]);
        let mut history = vec![HistoryRow::delta("WORKDIR /app")];
        for (index, line) in spec.toolchain.iter().enumerate() {
            let exec = Exec {
                argv: vec!["/bin/sh".to_owned(), "-c".to_owned(), line.clone()],
                env: environments.toolchain(),
                cwd: root(),
                user: String::new(),
                network: NetworkMode::Default,
                privileges: PrivilegeSet::Run,
                mounts: self.toolchain_noise(),
                secret_env: Vec::new(),
                hostname: None,
                hosts: Vec::new(),
                limits: StepLimits::default(),
                capture: Capture::All,
                times: StepTimes::Kept,
                on_failure: Vec::new(),
            };
            let name = format!("[base] {}", one_line(line));
            vertex =
                self.add(&format!("base/toolchain/{index}"), name, Op::Exec(Box::new(exec)), vec![vertex]);
            history.push(HistoryRow::delta(format!("RUN /bin/sh -c {line}")));
        }
        Stage { vertex, history }
    }
}

/// The first line that says something, for a name.
fn one_line(text: &str) -> String {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    if lines.next().is_some() { format!("{first} …") } else { first.to_owned() }
}
