use std::sync::Arc;

use super::persistent::Persistent;
use crate::expand::Variables;

/// Environment variables in the order in which they were first set. Clones are cheap.
#[derive(Clone, Debug, Default)]
pub struct Env {
    map: Persistent<Arc<str>>,
    bytes: usize,
}

impl Env {
    /// The value of a variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.map.get(name).map(|value| &**value)
    }

    /// Sets a variable; one that was set keeps its place.
    pub fn set(&mut self, name: &str, value: &str) {
        match self.map.set(name, Arc::from(value)) {
            Some(old) => self.bytes = self.bytes + value.len() - old.len(),
            None => self.bytes += name.len() + value.len(),
        }
    }

    /// All of them, in order.
    pub fn entries(&self) -> Vec<(&str, &str)> {
        self.map.ordered().into_iter().map(|(name, value)| (name, &**value)).collect()
    }

    /// All names, sorted.
    pub fn names(&self) -> Vec<&str> {
        self.map.sorted().into_iter().map(|(name, _)| name).collect()
    }

    /// What they take: all names and values.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Variables for Env {
    fn get(&self, name: &str) -> Option<&str> {
        Self::get(self, name)
    }
}

impl<N: AsRef<str>, V: AsRef<str>> FromIterator<(N, V)> for Env {
    fn from_iter<T: IntoIterator<Item = (N, V)>>(entries: T) -> Self {
        let mut env = Self::default();
        for (name, value) in entries {
            env.set(name.as_ref(), value.as_ref());
        }
        env
    }
}
