use std::time::Duration;

use wbuild_report::Event;

use super::output::Output;
use super::step::Build;
use super::{Summary, View, ending};
use crate::render::Theme;

/// Says nothing but the warnings, at the end.
#[derive(Debug)]
pub(super) struct QuietView {
    build: Build,
    output: Output,
    theme: Theme,
}

impl QuietView {
    pub(super) fn new(output: Output, theme: Theme) -> Self {
        Self { build: Build::default(), output, theme }
    }
}

impl View for QuietView {
    fn event(&mut self, at: Duration, event: Event) {
        // Nobody will see a log, so none is kept.
        if !matches!(event, Event::Log { .. }) {
            self.build.apply(at, event);
        }
    }

    fn note(&mut self, _at: Duration, _text: &str) {}

    fn tick(&mut self, _at: Duration) {}

    fn finish(&mut self, at: Duration) -> Summary {
        self.output.write(&ending::warnings(&self.build, &self.theme));
        self.build.summary(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::testing::{Screenplay, Sheet};

    #[test]
    fn only_warnings_are_left() {
        let sheet = Sheet::default();
        let mut play = Screenplay::new(QuietView::new(Output::new(sheet.clone()), Theme::plain()));
        play.failing_build();
        play.finish();
        insta::assert_snapshot!(sheet.text(), @r"
            warning: `node_modules` in the context is ignored (2 times)
              hint: add it to `.dockerignore`
            ");
    }
}
