//! Orders and cycles of small directed graphs, without recursion: the graphs come from files of the user.

use std::collections::BTreeSet;

/// Cycles that are named at most; one message is enough for a person to start with.
const MAX_CYCLES: usize = 10;

/// The nodes so that each comes after those it points to; smaller ones first where there is a choice. When there is
/// a cycle, one path around it instead, its first node repeated at the end.
pub(crate) fn topological(edges: &[Vec<usize>]) -> Result<Vec<usize>, Vec<usize>> {
    let (order, left) = peel(edges, &BTreeSet::new());
    match left.first() {
        None => Ok(order),
        Some(_) => Err(around(edges, &left)),
    }
}

/// As [`topological`], with the nodes of cycles, and those that wait for them, last and by number.
pub(crate) fn topological_lenient(edges: &[Vec<usize>]) -> Vec<usize> {
    let (mut order, left) = peel(edges, &BTreeSet::new());
    order.extend(left);
    order
}

/// Paths around cycles, each with its first node repeated at the end, no node in two of them.
pub(crate) fn cycles(edges: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let mut removed = BTreeSet::new();
    let mut found = Vec::new();
    while found.len() < MAX_CYCLES {
        let (_, left) = peel(edges, &removed);
        if left.is_empty() {
            break;
        }
        let cycle = around(edges, &left);
        removed.extend(cycle.iter().copied());
        found.push(cycle);
    }
    found
}

/// Takes away nodes all of whose targets are gone, until none is left that can be: those taken, and the rest.
fn peel(edges: &[Vec<usize>], removed: &BTreeSet<usize>) -> (Vec<usize>, BTreeSet<usize>) {
    let mut waiting = vec![0usize; edges.len()];
    let mut back: Vec<Vec<usize>> = vec![Vec::new(); edges.len()];
    for (from, targets) in edges.iter().enumerate() {
        let targets: BTreeSet<usize> = targets.iter().copied().filter(|to| !removed.contains(to)).collect();
        waiting[from] = targets.len();
        for to in targets {
            back[to].push(from);
        }
    }
    let mut left: BTreeSet<usize> = (0..edges.len()).filter(|node| !removed.contains(node)).collect();
    let mut ready: BTreeSet<usize> = left.iter().copied().filter(|node| waiting[*node] == 0).collect();
    let mut order = Vec::with_capacity(left.len());
    while let Some(node) = ready.pop_first() {
        left.remove(&node);
        order.push(node);
        for from in &back[node] {
            waiting[*from] -= 1;
            if waiting[*from] == 0 && left.contains(from) {
                ready.insert(*from);
            }
        }
    }
    (order, left)
}

/// A path around a cycle among `left`, all of whose nodes point to another of them.
fn around(edges: &[Vec<usize>], left: &BTreeSet<usize>) -> Vec<usize> {
    let mut path: Vec<usize> = Vec::new();
    let mut next = left.first().copied();
    while let Some(node) = next {
        if let Some(start) = path.iter().position(|seen| *seen == node) {
            let mut cycle = path.split_off(start);
            // The same cycle is told the same way however it was entered.
            let least = cycle.iter().enumerate().min_by_key(|(_, node)| **node).map_or(0, |(at, _)| at);
            cycle.rotate_left(least);
            cycle.push(cycle[0]);
            return cycle;
        }
        path.push(node);
        next = edges[node].iter().copied().find(|to| left.contains(to));
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_and_cycles() {
        assert_eq!(topological(&[vec![1, 2], vec![2], vec![]]), Ok(vec![2, 1, 0]));
        assert_eq!(topological(&[vec![], vec![], vec![]]), Ok(vec![0, 1, 2]));
        assert_eq!(topological(&[vec![1], vec![2], vec![1], vec![0]]), Err(vec![1, 2, 1]));
        assert_eq!(topological(&[vec![0]]), Err(vec![0, 0]));
        let two = [vec![1], vec![0], vec![3], vec![2], vec![0, 2]];
        assert_eq!(cycles(&two), [vec![0, 1, 0], vec![2, 3, 2]]);
        assert!(cycles(&[vec![1], vec![]]).is_empty());
    }
}
