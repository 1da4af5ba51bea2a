use wbuild_graph::{Copy, FileAction, FileOp, Files, Op, Source};
use wbuild_report::VertexId;
use wbuild_tree::EntryPath;

use super::{BY_ROOT, Lowering, Stage, root};
use crate::HistoryRow;
use crate::lower::deps::Deps;

impl Lowering<'_> {
    /// Files of the context at `/app`; `None` when there are none.
    pub(super) fn sources(&mut self, step: &str, name: &str, paths: &[EntryPath]) -> Option<VertexId> {
        let local = self.local(step, name, paths)?;
        let scratch = self.scratch();
        let copy = FileAction::Copy(Copy {
            input: 1,
            source: EntryPath::root(),
            target: root(),
            owner: Some(BY_ROOT),
        });
        let copy = Op::File(FileOp { actions: vec![copy] });
        Some(self.add_minor(
            &format!("{step}/sources"),
            format!("{name} sources"),
            copy,
            vec![scratch, local],
        ))
    }

    /// Files of the context as they lie there.
    pub(super) fn local(&mut self, step: &str, name: &str, paths: &[EntryPath]) -> Option<VertexId> {
        if paths.is_empty() {
            return None;
        }
        // Sorted and once each, so that the order in which they were found says nothing.
        let mut paths = paths.to_vec();
        paths.sort();
        paths.dedup();
        let source = Op::Source(Source::Local { context: String::new(), files: Files::Paths(paths) });
        Some(self.add_minor(&format!("{step}/context"), format!("{name} context"), source, Vec::new()))
    }

    /// All sources on the installed dependencies, with `outputs` on top: what a person would find in a checkout.
    pub(super) fn workspace_stage(
        &mut self,
        name: &str,
        base: &Stage,
        deps: &Deps,
        outputs: &[(VertexId, HistoryRow)],
    ) -> Stage {
        let mut layers = vec![base.vertex];
        let mut history = base.history.clone();
        layers.extend(deps.layers.iter().map(|(vertex, _)| *vertex));
        history.extend(deps.layers.iter().map(|(_, row)| row.clone()));
        let paths = &self.input.project.sources;
        if let Some(sources) = self.sources(&format!("{name}/all"), &format!("[{name}]"), paths) {
            layers.push(sources);
            history.push(HistoryRow::delta(format!("COPY {} files of the workspace to /app", paths.len())));
        }
        layers.extend(outputs.iter().map(|(vertex, _)| *vertex));
        history.extend(outputs.iter().map(|(_, row)| row.clone()));
        let vertex =
            self.add_minor(&format!("{name}/all/merge"), format!("[{name}] /app"), Op::Merge, layers);
        Stage { vertex, history }
    }
}
