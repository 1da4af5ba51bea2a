use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Asks everything that belongs to a build to stop: set by ctrl-C or by the first failure. Cheap to clone.
#[derive(Clone, Default)]
pub struct Cancellation(Arc<Shared>);

type Listener = Box<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct Shared {
    cancelled: AtomicBool,
    next: AtomicU64,
    listeners: Mutex<BTreeMap<u64, Listener>>,
}

impl Cancellation {
    /// A token that nobody has cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks to stop; every listener is called once. Further calls do nothing. Says whether anybody listened.
    pub fn cancel(&self) -> bool {
        if self.0.cancelled.swap(true, Ordering::SeqCst) {
            return true;
        }
        let listeners = self.0.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        for listener in listeners.values() {
            listener();
        }
        !listeners.is_empty()
    }

    /// Whether stopping was asked for.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::SeqCst)
    }

    /// Calls `listener` when stopping is asked for, at once if it was already, until the subscription is dropped. The
    /// listener must not block.
    #[must_use = "the subscription ends when it is dropped"]
    pub fn subscribe(&self, listener: impl Fn() + Send + Sync + 'static) -> Subscription {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let mut listeners = self.0.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_cancelled() {
            listener();
        }
        listeners.insert(id, Box::new(listener));
        Subscription { token: self.clone(), id }
    }
}

impl fmt::Debug for Cancellation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cancellation").field(&self.is_cancelled()).finish()
    }
}

/// Ends a listener's subscription when dropped.
#[derive(Debug)]
pub struct Subscription {
    token: Cancellation,
    id: u64,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.token.0.listeners.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn listeners_are_called_once_and_late_ones_at_once() {
        let token = Cancellation::new();
        let calls = Arc::new(AtomicUsize::new(0));
        let count = |calls: &Arc<AtomicUsize>| {
            let calls = Arc::clone(calls);
            move || {
                calls.fetch_add(1, Ordering::SeqCst);
            }
        };
        let _kept = token.subscribe(count(&calls));
        drop(token.subscribe(count(&calls)));
        token.cancel();
        token.cancel();
        assert_eq!(calls.load(Ordering::SeqCst), 1);
        let _late = token.subscribe(count(&calls));
        assert_eq!(calls.load(Ordering::SeqCst), 2);
    }
}
