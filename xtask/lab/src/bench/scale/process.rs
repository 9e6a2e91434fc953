//! What `/proc` says of the agent's process.

use anyhow::Context as _;
use std::fs;
use std::time::Duration;

/// A process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Process(pub(super) u32);

/// Memory in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub(super) struct Memory {
    /// Resident (`VmRSS`): what the process has, pages of its program file included.
    pub(super) resident: u64,
    /// Of that its own (`RssAnon`): heap and stacks.
    pub(super) anonymous: u64,
    /// The most that was ever resident (`VmHWM`).
    pub(super) peak: u64,
}

impl Process {
    pub(super) fn memory(self) -> anyhow::Result<Memory> {
        let path = format!("/proc/{}/status", self.0);
        let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let field = |name: &str| -> anyhow::Result<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("{path} has no {name}"))?;
            let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().with_context(|| format!("{path}: {name}{line}"))?;
            Ok(kilobytes * 1024)
        };
        Ok(Memory { resident: field("VmRSS:")?, anonymous: field("RssAnon:")?, peak: field("VmHWM:")? })
    }

    /// Time on a processor of all of its threads that live, in nanoseconds and not in ticks: a heartbeat takes microseconds.
    pub(super) fn processor(self) -> anyhow::Result<Duration> {
        let path = format!("/proc/{}/task", self.0);
        let mut sum = 0;
        for task in fs::read_dir(&path).with_context(|| format!("list {path}"))? {
            // A thread may end meanwhile.
            let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
            sum +=
                text.split_whitespace().next().and_then(|time| time.parse::<u64>().ok()).with_context(|| format!("schedstat: {text}"))?;
        }
        Ok(Duration::from_nanos(sum))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_its_own_process() -> anyhow::Result<()> {
        let process = Process(std::process::id());
        let memory = process.memory()?;
        assert!(memory.anonymous > 0 && memory.anonymous < memory.resident && memory.resident <= memory.peak, "{memory:?}");
        assert!(process.processor()? > Duration::ZERO);
        Ok(())
    }
}
