//! Packets as they cross a link: recorded by `tcpdump`, decoded by `tshark`, which knows nothing of our code.

use crate::command;
use crate::netns::Ns;
use crate::sandbox;
use anyhow::{Context as _, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    child: Child,
    file: PathBuf,
    said: PathBuf,
}

impl Capture {
    /// Starts to record what `filter` matches on an interface, and waits until the recording runs.
    ///
    /// # Errors
    /// `tcpdump` is missing or refuses the filter.
    pub fn start(ns: &Ns, interface: &str, filter: &str) -> anyhow::Result<Self> {
        let file = Path::new(sandbox::ROOT).join("capture.pcap");
        let said = Path::new(sandbox::ROOT).join("capture.log");
        let log = File::create(&said).with_context(|| format!("create {}", said.display()))?;
        let mut command = ns.command("tcpdump");
        // As root (-Z): the user it would become may not write here. Unbuffered (-U, immediate): the last packet is in the file at the end.
        command.args(["-Z", "root", "-n", "-U", "--immediate-mode", "-B", "8192", "-i", interface, "-w"]).arg(&file).arg(filter);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().context("start tcpdump")?;
        let mut capture = Self { child, file, said };
        let start = Instant::now();
        while !capture.output().contains("listening on") {
            if let Some(status) = capture.child.try_wait()? {
                bail!("tcpdump ended ({status}): {}", capture.output().trim());
            }
            ensure!(start.elapsed() < Duration::from_secs(5), "tcpdump does not start: {}", capture.output().trim());
            thread::sleep(Duration::from_millis(10));
        }
        Ok(capture)
    }

    fn output(&self) -> String {
        fs::read_to_string(&self.said).unwrap_or_default()
    }

    /// How many packets the file holds by now.
    fn packets(&self) -> anyhow::Result<usize> {
        let bytes = fs::read(&self.file).with_context(|| format!("read {}", self.file.display()))?;
        // 24 bytes of file header, then per packet 16 bytes, the third word of which is the length of what follows (pcap-savefile(5)).
        let (mut rest, mut count) = (bytes.get(24..).unwrap_or_default(), 0);
        while let Some(header) = rest.first_chunk::<16>() {
            let len = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
            let Some(next) = rest.get(16 + usize::try_from(len)?..) else { break };
            (rest, count) = (next, count + 1);
        }
        Ok(count)
    }

    /// Stops the recording as soon as it has `at_least` packets and decodes it: per packet the fields asked for, in their order. A field
    /// that occurs twice in a packet (outer and inner) is listed twice with a comma between; one that does not occur is empty.
    ///
    /// # Errors
    /// There are not as many packets after three seconds, or `tshark` is missing or knows no such field.
    pub fn decode(mut self, at_least: usize, fields: &[&str]) -> anyhow::Result<Vec<Vec<String>>> {
        let start = Instant::now();
        while self.packets()? < at_least {
            ensure!(start.elapsed() < Duration::from_secs(3), "{} of {at_least} packets crossed", self.packets()?);
            thread::sleep(Duration::from_millis(10));
        }
        kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGINT).context("stop tcpdump")?;
        self.child.wait().context("wait for tcpdump")?;
        let mut tshark = Command::new("tshark");
        // No name resolution (-n); the port is VXLAN for flannel, but the registry gives it to another protocol.
        tshark.args(["-n", "-d", "udp.port==8472,vxlan", "-T", "fields", "-E", "separator=/t", "-E", "occurrence=a", "-r"]).arg(&self.file);
        for field in fields {
            tshark.args(["-e", field]);
        }
        let text = command::run(&mut tshark)?;
        Ok(text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect())
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // Either fails only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
