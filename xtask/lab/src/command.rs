//! Running the tools of the field (`ip`, `bridge`, `ethtool`, `bpftool`, `tshark`): one place that turns a failure into a sentence.

use anyhow::{Context as _, bail};
use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::thread;

/// Runs a command to its end and returns what it printed.
///
/// # Errors
/// The program is missing, or ends with another code than 0: the message holds the whole command line and what it said.
pub fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = output(command)?;
    printed(command, &output)
}

/// Runs a command to its end with `input` as its standard input and returns what it printed.
///
/// # Errors
/// As [`run`].
pub fn run_with_input(command: &mut Command, input: &str) -> anyhow::Result<String> {
    let output = output_with_input(command, input)?;
    printed(command, &output)
}

/// Runs a command to its end with `input` as its standard input, whatever its exit code.
///
/// # Errors
/// The program is missing.
pub fn output_with_input(command: &mut Command, input: &str) -> anyhow::Result<Output> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start `{}`", line(command)))?;
    let stdin = child.stdin.take();
    let output = thread::scope(|scope| {
        // On a thread of its own: a program that prints before it has read everything would wait for us and we for it. One that ends
        // early says why, which tells more than the broken pipe.
        scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(input.as_bytes())));
        child.wait_with_output()
    });
    output.with_context(|| format!("run `{}`", line(command)))
}

/// What a command printed, if it ended well.
fn printed(command: &Command, output: &Output) -> anyhow::Result<String> {
    if !output.status.success() {
        bail!("`{}` failed ({}): {}", line(command), output.status, said(output));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command to its end, whatever its exit code.
///
/// # Errors
/// The program is missing.
pub fn output(command: &mut Command) -> anyhow::Result<Output> {
    command.stdin(Stdio::null()).output().with_context(|| format!("start `{}`", line(command)))
}

/// Runs `ip` with the words of `arguments`, split at blanks, in the current network namespace.
///
/// # Errors
/// As [`run`].
pub fn ip(arguments: &str) -> anyhow::Result<String> {
    run(Command::new("ip").args(arguments.split_whitespace()))
}

/// The command as one would type it.
#[must_use]
pub fn line(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}

/// What a failed command said, on one line where it is short.
fn said(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8_lossy(&output.stdout);
    let text = if stderr.trim().is_empty() { stdout.trim() } else { stderr.trim() };
    if text.is_empty() { "it said nothing".to_owned() } else { text.to_owned() }
}
