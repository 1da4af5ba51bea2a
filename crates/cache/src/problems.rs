use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use wbuild_report::{EventSink, Warning};

/// What is wrong with caches, each thing said once. Nobody listens when the first thing goes wrong: it is kept until
/// somebody does.
#[derive(Debug, Default)]
pub struct Problems(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    events: Option<EventSink>,
    waiting: Vec<Warning>,
    said: BTreeSet<String>,
}

impl Problems {
    /// Says them there from now on, beginning with those that waited.
    pub fn follow(&self, events: EventSink) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut state.waiting).into_iter().for_each(|warning| events.hand_on(warning));
        state.events = Some(events);
    }

    /// Says one, unless something was said about the same `subject` before.
    pub fn say(&self, subject: &str, message: impl Into<String>, hints: Vec<String>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.said.insert(subject.to_owned()) {
            return;
        }
        let warning = Warning { message: message.into(), hints };
        match &state.events {
            Some(events) => events.hand_on(warning),
            None => state.waiting.push(warning),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use wbuild_report::Event;

    use super::*;

    #[test]
    fn each_is_said_once_and_none_is_lost() {
        let said = Arc::new(Mutex::new(Vec::new()));
        let problems = Problems::default();
        problems.say("a", "first", Vec::new());
        problems.say("a", "again", Vec::new());
        let listener = Arc::clone(&said);
        problems.follow(EventSink::new(move |event| {
            if let Event::Warned { warning, .. } = event {
                listener.lock().unwrap().push(warning.message);
            }
        }));
        problems.say("b", "second", Vec::new());
        problems.say("b", "again", Vec::new());
        assert_eq!(*said.lock().unwrap(), ["first", "second"]);
    }
}
