//! An ordered map whose clones share what they have in common. A Dockerfile may have thousands of stages, each inheriting the
//! variables of the one before and adding its own: copies would take quadratic memory.

use std::cmp::Ordering;
use std::sync::Arc;

/// A map from names, which also remembers in which order names were first set. An AVL tree with shared nodes.
#[derive(Clone, Debug)]
pub(crate) struct Persistent<V> {
    root: Tree<V>,
    len: u32,
}

type Tree<V> = Option<Arc<Node<V>>>;

#[derive(Debug)]
struct Node<V> {
    name: Arc<str>,
    value: V,
    order: u32,
    height: u8,
    left: Tree<V>,
    right: Tree<V>,
}

impl<V> Default for Persistent<V> {
    fn default() -> Self {
        Self { root: None, len: 0 }
    }
}

impl<V: Clone> Persistent<V> {
    pub(crate) fn get(&self, name: &str) -> Option<&V> {
        let mut tree = self.root.as_deref();
        while let Some(node) = tree {
            match name.cmp(&node.name) {
                Ordering::Equal => return Some(&node.value),
                Ordering::Less => tree = node.left.as_deref(),
                Ordering::Greater => tree = node.right.as_deref(),
            }
        }
        None
    }

    /// Sets a value and returns the one before. A name that is there keeps its place in the order.
    pub(crate) fn set(&mut self, name: &str, value: V) -> Option<V> {
        let old = self.get(name).cloned();
        let order = self.len;
        if old.is_none() {
            self.len += 1;
        }
        self.root = Some(insert(self.root.as_ref(), name, value, order));
        old
    }

    /// All entries, by name.
    pub(crate) fn sorted(&self) -> Vec<(&str, &V)> {
        self.nodes().into_iter().map(|node| (&*node.name, &node.value)).collect()
    }

    /// All entries in the order in which their names were first set.
    pub(crate) fn ordered(&self) -> Vec<(&str, &V)> {
        let mut nodes = self.nodes();
        nodes.sort_by_key(|node| node.order);
        nodes.into_iter().map(|node| (&*node.name, &node.value)).collect()
    }

    fn nodes(&self) -> Vec<&Node<V>> {
        let mut nodes = Vec::with_capacity(self.len as usize);
        let mut open = Vec::new();
        let mut tree = self.root.as_deref();
        while tree.is_some() || !open.is_empty() {
            while let Some(node) = tree {
                open.push(node);
                tree = node.left.as_deref();
            }
            if let Some(node) = open.pop() {
                nodes.push(node);
                tree = node.right.as_deref();
            }
        }
        nodes
    }
}

fn height<V>(tree: &Tree<V>) -> u8 {
    tree.as_ref().map_or(0, |node| node.height)
}

/// A balanced node of parts whose heights differ by at most two, as they do after one insertion.
fn node<V: Clone>(name: Arc<str>, value: V, order: u32, left: Tree<V>, right: Tree<V>) -> Arc<Node<V>> {
    if let Some(l) = left.as_ref()
        && l.height > height(&right) + 1
    {
        if height(&l.left) >= height(&l.right) {
            let lower = node(name, value, order, l.right.clone(), right);
            return node(Arc::clone(&l.name), l.value.clone(), l.order, l.left.clone(), Some(lower));
        }
        if let Some(lr) = &l.right {
            let new_left =
                node(Arc::clone(&l.name), l.value.clone(), l.order, l.left.clone(), lr.left.clone());
            let new_right = node(name, value, order, lr.right.clone(), right);
            return node(Arc::clone(&lr.name), lr.value.clone(), lr.order, Some(new_left), Some(new_right));
        }
    }
    if let Some(r) = right.as_ref()
        && r.height > height(&left) + 1
    {
        if height(&r.right) >= height(&r.left) {
            let lower = node(name, value, order, left, r.left.clone());
            return node(Arc::clone(&r.name), r.value.clone(), r.order, Some(lower), r.right.clone());
        }
        if let Some(rl) = &r.left {
            let new_right =
                node(Arc::clone(&r.name), r.value.clone(), r.order, rl.right.clone(), r.right.clone());
            let new_left = node(name, value, order, left, rl.left.clone());
            return node(Arc::clone(&rl.name), rl.value.clone(), rl.order, Some(new_left), Some(new_right));
        }
    }
    let height = 1 + height(&left).max(height(&right));
    Arc::new(Node { name, value, order, height, left, right })
}

fn insert<V: Clone>(tree: Option<&Arc<Node<V>>>, name: &str, value: V, order: u32) -> Arc<Node<V>> {
    let Some(old) = tree else { return node(Arc::from(name), value, order, None, None) };
    let (left, right) = (old.left.clone(), old.right.clone());
    match name.cmp(&old.name) {
        Ordering::Equal => node(Arc::clone(&old.name), value, old.order, left, right),
        Ordering::Less => {
            let left = Some(insert(old.left.as_ref(), name, value, order));
            node(Arc::clone(&old.name), old.value.clone(), old.order, left, right)
        }
        Ordering::Greater => {
            let right = Some(insert(old.right.as_ref(), name, value, order));
            node(Arc::clone(&old.name), old.value.clone(), old.order, left, right)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_balanced_ordered_map() {
        let mut map = Persistent::default();
        let mut before = map.clone();
        for step in 0..2000u32 {
            let name = format!("n{}", (step * 7919) % 1000);
            before = map.clone();
            assert_eq!(map.set(&name, step).is_some(), step >= 1000);
        }
        assert_eq!(before.get("n81"), Some(&999), "clones do not change");
        assert_eq!(map.get("n81"), Some(&1999));
        assert_eq!(map.get("x"), None);
        assert!(map.sorted().is_sorted_by(|a, b| a.0 < b.0));
        let ordered = map.ordered();
        assert_eq!((ordered.len(), ordered[0].0, ordered[1].0), (1000, "n0", "n919"));
        assert!(map.root.as_ref().is_some_and(|root| root.height <= 14));
    }
}
