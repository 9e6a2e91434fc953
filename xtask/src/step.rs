//! Running other programs: quietly with progress shown, or with their own output.
//!
//! On a terminal a step is a spinner with elapsed time and the child's last line. Elsewhere it is one line at its start, one every half
//! minute and one at its end, so that a log shows it is alive.

use crate::place;
use crate::refusal::ChildFailed;
use anyhow::{Context as _, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, IsTerminal as _, Read, Write as _};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// How often a step without a terminal says that it is still running.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// Lines of a failed child shown at once; the rest is in its log.
const TAIL: usize = 25;

/// Runs a child whose output matters only if it fails. The output goes to `target/setup/<log>.log`.
pub(crate) fn quiet(label: &str, log: &str, command: &mut Command) -> Result<()> {
    let folder = place::logs();
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let path = folder.join(format!("{log}.log"));
    let mut file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;

    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", describe(command)))?;
    let (sender, lines) = mpsc::channel();
    read_lines(child.stdout.take().expect("stdout is piped"), sender.clone());
    read_lines(child.stderr.take().expect("stderr is piped"), sender);

    let view = View::new(label, start);
    let mut tail = Vec::new();
    let mut beat = start + HEARTBEAT;
    loop {
        if beat.checked_duration_since(Instant::now()).is_none() {
            view.heartbeat();
            beat += HEARTBEAT;
        }
        match lines.recv_timeout(beat.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                writeln!(file, "{line}").with_context(|| format!("cannot write {}", path.display()))?;
                view.line(&line);
                tail.push(line);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let status = child.wait().with_context(|| format!("cannot wait for {}", describe(command)))?;
    view.end(status.success());
    if status.success() {
        return Ok(());
    }
    for line in &tail[tail.len().saturating_sub(TAIL)..] {
        eprintln!("    {line}");
    }
    bail!("{label}: {} ended with {status}; all of its output is in {}", describe(command), path.display())
}

/// Runs a child that speaks for itself; its exit code becomes ours.
pub(crate) fn loud(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", describe(command)))?;
    check(status)
}

/// Success, or the child's exit code as an error that is passed on without further words.
pub(crate) fn check(status: ExitStatus) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    // No code means a signal ended the child: 1, as for any other failure.
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Err(ChildFailed(code).into())
}

/// Runs a child for what it prints.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {}", describe(command)))?;
    if !output.status.success() {
        bail!("{} ended with {}: {}", describe(command), output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("{} printed something other than UTF-8", describe(command)))
}

/// The cargo that started xtask, or the one on PATH.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(place::workspace());
    command
}

/// The command line as a person would type it.
pub(crate) fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn read_lines(stream: impl Read + Send + 'static, lines: mpsc::Sender<String>) {
    thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            // The receiver is gone only when its thread has failed already.
            if lines.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                return;
            }
        }
    });
}

/// What the person sees of a quiet step.
struct View<'a> {
    label: &'a str,
    start: Instant,
    bar: Option<ProgressBar>,
}

impl<'a> View<'a> {
    fn new(label: &'a str, start: Instant) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {prefix} [{elapsed}] {wide_msg:.dim}").expect("the template is constant");
            let bar = ProgressBar::new_spinner().with_style(style).with_prefix(label.to_owned());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if bar.is_none() {
            eprintln!("{label} ...");
        }
        Self { label, start, bar }
    }

    fn line(&self, line: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(line.trim().to_owned());
        }
    }

    fn heartbeat(&self) {
        if self.bar.is_none() {
            eprintln!("{} ... still running after {} s", self.label, self.start.elapsed().as_secs());
        }
    }

    fn end(self, success: bool) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let word = if success { "done" } else { "failed" };
        eprintln!("{}: {word} in {:.1} s", self.label, self.start.elapsed().as_secs_f64());
    }
}
