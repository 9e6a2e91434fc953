//! Waiting for many sockets at once (epoll), with a limit to how long nothing may happen.

use super::{STALL, TICK};
use anyhow::{Context as _, bail};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use std::os::fd::AsFd;

/// Most events taken at once.
const BATCH: usize = 256;

/// A set of sockets, each known by a key.
pub(super) struct Poller {
    epoll: Epoll,
    events: [EpollEvent; BATCH],
    /// What does not happen when nothing happens: a sentence for the error.
    stall: String,
    /// Ticks in a row without an event. Counted, so that no clock is read in the way of work.
    silent: u32,
}

impl Poller {
    pub(super) fn new(stall: impl Into<String>) -> anyhow::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("make an epoll")?;
        Ok(Self { epoll, events: [EpollEvent::empty(); BATCH], stall: stall.into(), silent: 0 })
    }

    /// Adds a socket; closing it takes it out.
    pub(super) fn add(&self, socket: impl AsFd, key: usize, events: EpollFlags) -> anyhow::Result<()> {
        self.epoll.add(socket, EpollEvent::new(events, key as u64)).context("add a socket to an epoll")
    }

    /// Waits for events, but no longer than a tick: the caller looks at the phase then. Returns how many there are.
    ///
    /// # Errors
    /// Nothing happened for too long.
    pub(super) fn wait(&mut self) -> anyhow::Result<usize> {
        let tick = u16::try_from(TICK.as_millis())?;
        let count = match self.epoll.wait(&mut self.events, tick) {
            // A signal that stops and continues the process.
            Err(Errno::EINTR) => 0,
            count => count.context("wait for an epoll")?,
        };
        self.silent = if count > 0 { 0 } else { self.silent + 1 };
        if TICK * self.silent > STALL {
            bail!("{} for {} s", self.stall, STALL.as_secs());
        }
        Ok(count)
    }

    /// One of the events the last [`wait`](Self::wait) counted: whose it is, and what.
    pub(super) fn event(&self, place: usize) -> (usize, EpollFlags) {
        let event = self.events[place];
        #[expect(clippy::cast_possible_truncation, reason = "was a usize when it was added")]
        let key = event.data() as usize;
        (key, event.events())
    }
}
