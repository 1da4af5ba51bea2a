use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;
use wbuild_report::{SourceFile, Span, VertexId};

use crate::op::Op;

/// One operation with its inputs.
#[derive(Clone, Debug, Serialize)]
pub struct Vertex {
    /// What it does.
    pub op: Op,
    /// The vertices whose results it takes; operations refer to them by position.
    pub inputs: Vec<VertexId>,
    /// How people know it: `[deps] pnpm install`.
    pub name: String,
    /// Identifies "the same step" across builds, to find the record that explains a miss: never part of a key.
    pub identity: String,
    /// Of minor interest: folded by progress views.
    pub minor: bool,
    /// Where it is written, for errors.
    #[serde(skip)]
    pub origin: Option<Origin>,
}

/// A place in the description that a vertex was made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The file.
    pub file: Arc<SourceFile>,
    /// Where in it.
    pub span: Span,
}

/// An immutable DAG of operations. Inputs always come before the vertices that take them, so it has no cycles and its
/// order is a topological one.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Graph {
    vertices: Vec<Vertex>,
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a vertex.
    ///
    /// # Panics
    /// When an input is not in the graph yet: a mistake of the frontend, never of the person.
    pub fn add(&mut self, vertex: Vertex) -> VertexId {
        let next = VertexId(u32::try_from(self.vertices.len()).expect("fewer than 2^32 vertices"));
        assert!(
            vertex.inputs.iter().all(|input| *input < next),
            "inputs come before the vertex that takes them"
        );
        self.vertices.push(vertex);
        next
    }

    /// The vertex with this id.
    pub fn vertex(&self, id: VertexId) -> &Vertex {
        &self.vertices[id.0 as usize]
    }

    /// All vertices in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (VertexId, &Vertex)> {
        self.vertices.iter().enumerate().map(|(index, vertex)| (VertexId(index as u32), vertex))
    }

    /// How many vertices there are.
    pub fn len(&self) -> usize {
        self.vertices.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.vertices.is_empty()
    }

    /// What has to be known to solve `targets`: themselves and everything they take, in topological order.
    pub fn reachable(&self, targets: &[VertexId]) -> Vec<VertexId> {
        let mut found: BTreeSet<VertexId> = BTreeSet::new();
        let mut pending = targets.to_vec();
        while let Some(id) = pending.pop() {
            if found.insert(id) {
                pending.extend(&self.vertex(id).inputs);
            }
        }
        found.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{Op, Source};

    fn vertex(inputs: &[VertexId]) -> Vertex {
        let op = if inputs.is_empty() { Op::Source(Source::Scratch) } else { Op::Merge };
        Vertex {
            op,
            inputs: inputs.to_vec(),
            name: String::new(),
            identity: String::new(),
            minor: true,
            origin: None,
        }
    }

    #[test]
    fn only_what_is_needed_is_reachable() {
        let mut graph = Graph::new();
        let a = graph.add(vertex(&[]));
        let b = graph.add(vertex(&[]));
        let c = graph.add(vertex(&[a]));
        let d = graph.add(vertex(&[b, c]));
        let e = graph.add(vertex(&[b]));
        assert_eq!(graph.reachable(&[d]), [a, b, c, d]);
        assert_eq!(graph.reachable(&[e]), [b, e]);
    }

    #[test]
    #[should_panic(expected = "inputs come before")]
    fn cycles_cannot_be_made() {
        Graph::new().add(vertex(&[VertexId(0)]));
    }
}
