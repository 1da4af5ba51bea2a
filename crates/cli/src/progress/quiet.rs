use std::time::Duration;

use wbuild_report::Event;

use super::output::Output;
use super::step::Build;
use super::{Summary, View, ending};
use crate::render::Theme;

/// Says nothing but the warnings and the last lines of what failed, at the end.
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
        // Of logs only the last lines are kept, for a step that fails.
        self.build.apply(at, event);
    }

    fn note(&mut self, _at: Duration, _text: &str) {}

    fn tick(&mut self, _at: Duration) {}

    fn finish(&mut self, at: Duration) -> Summary {
        self.build.flush(at);
        self.output.write(&ending::warnings(&self.build, &self.theme));
        self.output.write(&ending::failures(&self.build, &self.theme));
        self.build.summary(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::testing::{Screenplay, Sheet};

    #[test]
    fn only_warnings_and_failures_are_left() {
        let sheet = Sheet::default();
        let mut play = Screenplay::new(QuietView::new(Output::new(sheet.clone()), Theme::plain()));
        play.failing_build();
        play.finish();
        insta::assert_snapshot!(sheet.text(), @r"
            warning: `node_modules` in the context is ignored (2 times)
              hint: add it to `.dockerignore`
            failed [web] next build after 1.6 s
              | Creating an optimized production build ...
              | Type error: `x` is not a number
              |   at page.tsx:3
              full log: /home/me/.cache/wbuild/logs/3.log
            ");
    }
}
