//! What is going on, on standard error: a spinner on a terminal, one line per step elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal as _, Write as _, stderr};
use std::time::{Duration, Instant};

/// The current step.
#[derive(Debug)]
pub(super) struct Progress {
    spinner: Option<ProgressBar>,
    start: Instant,
}

impl Progress {
    pub(super) fn new() -> Self {
        let spinner = stderr().is_terminal().then(|| {
            let spinner = ProgressBar::new_spinner();
            let style = ProgressStyle::with_template("{spinner} {wide_msg} {elapsed}").expect("the template is a constant");
            spinner.set_style(style);
            spinner.enable_steady_tick(Duration::from_millis(100));
            spinner
        });
        Self { spinner, start: Instant::now() }
    }

    /// Says what begins now.
    pub(super) fn step(&mut self, text: &str) {
        match &self.spinner {
            Some(spinner) => spinner.set_message(text.to_owned()),
            // Whether anybody reads it does not matter.
            None => drop(writeln!(stderr(), "{:5.1} s  {text}", self.start.elapsed().as_secs_f64())),
        }
    }

    /// Takes the spinner away.
    pub(super) fn finish(&mut self) {
        if let Some(spinner) = self.spinner.take() {
            spinner.finish_and_clear();
        }
    }
}
