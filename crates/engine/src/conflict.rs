//! Two tasks that write one path with different bytes are an error (decision 3): which of them won would depend on the
//! order in which they are stacked, and nobody asked for one.

use std::collections::BTreeMap;

use wbuild_graph::{Capture, DeltaId, Graph, Op, Snapshot, Vertex};
use wbuild_report::VertexId;
use wbuild_tree::{Entry, EntryPath, Subtree, TreeSource, Visit, walk};

use crate::error::EngineError;

/// Checks the outputs that a step is about to see: those of the tasks whose results its root file system is merged from.
pub(crate) fn check_outputs(
    graph: &Graph,
    vertex: &Vertex,
    root: &Snapshot,
    trees: &dyn TreeSource,
) -> Result<(), EngineError> {
    let Some(merge) = vertex.inputs.first().map(|id| graph.vertex(*id)) else { return Ok(()) };
    if !matches!(merge.op, Op::Merge) {
        return Ok(());
    }
    // Outputs are stacked last, each as one tree, in the order of the merge. What lifecycle scripts wrote lies below the
    // sources: tasks may write it anew.
    let mut names: Vec<&str> = merge.inputs.iter().rev().map_while(|id| task_of(graph, *id)).collect();
    names.reverse();
    let outputs = root.deltas.len().checked_sub(names.len()).map(|first| &root.deltas[first..]);
    let mut written: BTreeMap<EntryPath, (Entry, &str)> = BTreeMap::new();
    for (name, delta) in names.iter().zip(outputs.unwrap_or_default()) {
        let DeltaId::Tree { tree, .. } = delta else { return Ok(()) };
        let tree = Subtree::load(trees, *tree)?;
        walk::<EngineError>(trees, &tree, &mut |path, entry| {
            if entry.is_directory() {
                return Ok(Visit::Into);
            }
            match written.get(path) {
                Some((other, first)) if other != entry => Err(EngineError::OutputConflict {
                    path: path.clone(),
                    first: (*first).to_owned(),
                    second: (*name).to_owned(),
                }),
                _ => {
                    written.insert(path.clone(), (entry.clone(), name));
                    Ok(Visit::Into)
                }
            }
        })?;
    }
    Ok(())
}

/// The name of the task whose captured outputs a vertex stands for.
fn task_of(graph: &Graph, id: VertexId) -> Option<&str> {
    let vertex = graph.vertex(id);
    let Op::Diff = vertex.op else { return None };
    let step = graph.vertex(*vertex.inputs.get(1)?);
    match &step.op {
        Op::Exec(exec) if matches!(exec.capture, Capture::Outputs { .. }) => Some(&step.name),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use wbuild_graph::{Exec, NetworkMode, PrivilegeSet, Source, StepLimits, StepTimes};
    use wbuild_tree::MemoryTrees;

    use super::*;
    use crate::files::tests::{file, tree};

    fn exec() -> Op {
        Op::Exec(Box::new(Exec {
            argv: Vec::new(),
            env: Vec::new(),
            cwd: EntryPath::root(),
            user: String::new(),
            network: NetworkMode::None,
            privileges: PrivilegeSet::Task,
            mounts: Vec::new(),
            secret_env: Vec::new(),
            hostname: None,
            hosts: Vec::new(),
            limits: StepLimits::default(),
            capture: Capture::Outputs { include: Vec::new(), exclude: Vec::new(), expected: Vec::new() },
            times: StepTimes::FromContent,
            on_failure: Vec::new(),
        }))
    }

    fn add(graph: &mut Graph, name: &str, op: Op, inputs: &[VertexId]) -> VertexId {
        let name = name.to_owned();
        graph.add(Vertex {
            op,
            inputs: inputs.to_vec(),
            identity: name.clone(),
            name,
            minor: false,
            origin: None,
        })
    }

    #[test]
    fn two_tasks_cannot_write_one_path() {
        let mut graph = Graph::new();
        let base = add(&mut graph, "base", Op::Source(Source::Scratch), &[]);
        let mut outputs = vec![base];
        for name in ["a#build", "b#build"] {
            let task = add(&mut graph, name, exec(), &[base]);
            outputs.push(add(&mut graph, "outputs", Op::Diff, &[base, task]));
        }
        let merge = add(&mut graph, "root", Op::Merge, &outputs);
        let last = add(&mut graph, "c#build", exec(), &[merge]);
        let trees = MemoryTrees::default();
        let root = |texts: [&str; 2]| {
            let deltas = texts.map(|text| {
                let tree = tree(&[("app/dist/x", file(text)), ("app/dist/shared", file("same"))]);
                trees.insert(&tree).unwrap();
                DeltaId::Tree { tree: tree.digest(), content: tree.content() }
            });
            Snapshot { deltas: deltas.to_vec() }
        };
        check_outputs(&graph, graph.vertex(last), &root(["1", "1"]), &trees).unwrap();
        let error = check_outputs(&graph, graph.vertex(last), &root(["1", "2"]), &trees).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`/app/dist/x` is written by a#build and by b#build, with different bytes"
        );
    }

    #[test]
    fn what_lifecycle_scripts_wrote_may_be_written_anew() {
        let mut graph = Graph::new();
        let base = add(&mut graph, "base", Op::Source(Source::Scratch), &[]);
        let outputs = |graph: &mut Graph, name: &str| {
            let step = add(graph, name, exec(), &[base]);
            add(graph, "outputs", Op::Diff, &[base, step])
        };
        let lifecycle = outputs(&mut graph, "postinstall");
        let task = outputs(&mut graph, "a#generate");
        let sources = add(&mut graph, "sources", Op::Source(Source::Scratch), &[base]);
        let merge = add(&mut graph, "root", Op::Merge, &[base, lifecycle, sources, task]);
        let last = add(&mut graph, "c#build", exec(), &[merge]);
        let trees = MemoryTrees::default();
        let deltas = ["1", "source", "2"].map(|text| {
            let tree = tree(&[("app/generated/x", file(text))]);
            trees.insert(&tree).unwrap();
            DeltaId::Tree { tree: tree.digest(), content: tree.content() }
        });
        check_outputs(&graph, graph.vertex(last), &Snapshot { deltas: deltas.to_vec() }, &trees).unwrap();
    }
}
