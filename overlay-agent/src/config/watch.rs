//! Follows the configuration while the agent runs: the file it was started with, and the files its settings name.
//!
//! Reads these files and watches their directories with inotify; writes nothing. What counts is what the files say: they are read once they
//! have held still, and compared with what was read before. A `ConfigMap` mount swaps a link, an editor renames or writes in place: all alike.
//! What cannot be used is told and changes nothing.

use super::{Config, ConfigError, read_file};
use crate::cli::Settings;
use futures::StreamExt as _;
use inotify::{EventStream, Inotify, WatchMask};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

/// How long the files must hold still: one that is being written is whole by then.
const STILL: Duration = Duration::from_millis(200);
/// How often the files are looked at without an event. An event that was missed, or could not be had, costs this much.
const RECHECK: Duration = Duration::from_secs(2);

/// The configuration in use, and the files it came from.
pub struct Watch {
    flags: Settings,
    file: Option<PathBuf>,
    config: Config,
    /// What the files said when they were last judged.
    judged: Contents,
    /// What they said at the last look.
    seen: Contents,
    due: Instant,
    events: Option<EventStream<[u8; 4096]>>,
}

/// What each file says; `None`: it cannot be read.
type Contents = Vec<(PathBuf, Option<Vec<u8>>)>;

/// What became of a change of the files.
#[derive(Debug)]
pub enum News {
    /// There is another configuration, and it can be used.
    Changed,
    /// What the files say cannot be used, or, with `None`, is what is in use.
    Problem(Option<String>),
}

impl Watch {
    /// Loads the configuration as [`Config::load`] does.
    ///
    /// # Errors
    /// As there.
    pub fn new(flags: Settings, file: Option<PathBuf>) -> Result<Self, ConfigError> {
        // Read before the configuration is: a change in between is one more look.
        let judged = contents(&flags, file.as_deref());
        let config = Config::load(flags.clone(), file.as_deref())?;
        Ok(Self { flags, file, config, seen: judged.clone(), judged, due: Instant::now(), events: None })
    }

    /// The configuration in use.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Goes back to a configuration that worked. The files are not judged again until they change.
    pub fn go_back(&mut self, config: Config) {
        self.config = config;
    }

    /// Watches within the tokio runtime this is called in.
    pub fn start(&mut self) {
        self.due = Instant::now();
        let events = Inotify::init().and_then(|inotify| inotify.into_event_stream([0; 4096]));
        self.events = events.inspect_err(|error| warn!(%error, "inotify is not available; the configuration is looked at every 2 s")).ok();
        self.renew_watches();
    }

    /// Waits for a change of the files. What was waited for is not lost if the wait is given up.
    pub async fn next(&mut self) -> News {
        loop {
            let event = async {
                match &mut self.events {
                    Some(events) => events.next().await.is_some(),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                some = event => {
                    if !some {
                        self.events = None;
                    }
                    self.due = self.due.min(Instant::now() + STILL);
                    continue;
                }
                () = sleep_until(self.due) => {}
            }
            if let Some(news) = self.look() {
                return news;
            }
        }
    }

    fn look(&mut self) -> Option<News> {
        self.due = Instant::now() + RECHECK;
        self.renew_watches();
        let now = contents(&self.flags, self.file.as_deref());
        if now != self.seen {
            self.seen = now;
            self.due = Instant::now() + STILL;
            return None;
        }
        if now == self.judged {
            return None;
        }
        self.judged = now;
        match self.load() {
            Ok(config) if config == self.config => Some(News::Problem(None)),
            Ok(config) => {
                info!("the configuration changed");
                self.config = config;
                Some(News::Changed)
            }
            Err(problem) => {
                warn!(problem, "the configuration cannot be used; the last good one stays");
                Some(News::Problem(Some(format!("the configuration changed and cannot be used, the last good one stays: {problem}"))))
            }
        }
    }

    fn load(&self) -> Result<Config, String> {
        let config = Config::load(self.flags.clone(), self.file.as_deref()).map_err(|error| error.to_string())?;
        let fixed = [
            ("bpffs, state-dir or pods-dir", config.directories != self.config.directories),
            ("log-format", config.log_format != self.config.log_format),
            ("node-name", config.node_name != self.config.node_name),
        ];
        match fixed.iter().find(|(_, differs)| *differs) {
            Some((name, _)) => Err(format!("{name} cannot change while the agent runs: restart it")),
            None => Ok(config),
        }
    }

    /// Links may lead elsewhere than before, and directories may have been made anew.
    fn renew_watches(&mut self) {
        let Some(events) = &self.events else { return };
        let mask = WatchMask::CLOSE_WRITE | WatchMask::CREATE | WatchMask::DELETE | WatchMask::MOVED_TO | WatchMask::MOVED_FROM;
        let mut watches = events.watches();
        for directory in self.seen.iter().flat_map(|(path, _)| directories(path)).collect::<BTreeSet<_>>() {
            // Adding one that is watched already gives its watch again; one that cannot be watched is looked at once in a while.
            let _looked_at = watches.add(directory, mask | WatchMask::ONLYDIR);
        }
    }
}

/// The files and what they say. Settings that cannot be read name no further files.
fn contents(flags: &Settings, file: Option<&Path>) -> Contents {
    let settings = file.and_then(|file| read_file(file).ok()).unwrap_or_default();
    let settings = flags.clone().or(settings);
    let paths = file.map(Path::to_owned).into_iter().chain(settings.net_conf).chain(settings.cni_conf);
    paths.map(|path| (path.clone(), std::fs::read(path).ok())).collect()
}

/// The directory the path names, and the one the file really is in.
fn directories(path: &Path) -> Vec<PathBuf> {
    let real = std::fs::canonicalize(path).ok();
    let parent = |path: &Path| path.parent().filter(|parent| !parent.as_os_str().is_empty()).map_or_else(|| ".".into(), Path::to_owned);
    [Some(path), real.as_deref()].into_iter().flatten().map(parent).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Backend;
    use std::fs;
    use std::os::unix::fs::symlink;

    async fn news(watch: &mut Watch) -> News {
        tokio::time::timeout(Duration::from_secs(10), watch.next()).await.expect("news within ten seconds")
    }

    /// As a `ConfigMap` is mounted: names are links into a directory that a link leads to.
    #[tokio::test]
    async fn a_config_map_is_followed_and_what_is_wrong_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let mut version = 0;
        let mut publish = |text: &str, net_conf: &str| {
            version += 1;
            let data = path(&format!("..{version}"));
            fs::create_dir(&data).unwrap();
            fs::write(data.join("agent.yaml"), text).unwrap();
            fs::write(data.join("net-conf.json"), net_conf).unwrap();
            symlink(&data, path("..next")).unwrap();
            fs::rename(path("..next"), path("..data")).unwrap();
        };
        let net_conf = r#"{ "Network": "10.244.0.0/16", "Backend": { "Type": "vxlan" } }"#;
        let text = format!("node-name: a\nnet-conf: {}\n", path("net-conf.json").display());
        publish(&text, net_conf);
        for name in ["agent.yaml", "net-conf.json"] {
            symlink(Path::new("..data").join(name), path(name)).unwrap();
        }
        let mut watch = Watch::new(Settings::default(), Some(path("agent.yaml"))).unwrap();
        assert_eq!(watch.config().backend, Backend::Vxlan);
        watch.start();

        publish(&text, &net_conf.replace("\"vxlan\"", "\"vxlan\", \"DirectRouting\": true"));
        assert!(matches!(news(&mut watch).await, News::Changed));
        assert_eq!(watch.config().backend, Backend::Direct);

        publish(&format!("{text}backend: tunnel\n"), net_conf);
        let told = news(&mut watch).await;
        assert!(matches!(&told, News::Problem(Some(problem)) if problem.contains("backend: \"tunnel\" cannot be used")), "{told:?}");
        assert_eq!(watch.config().backend, Backend::Direct);

        publish(&format!("{text}state-dir: /elsewhere\n"), net_conf);
        let told = news(&mut watch).await;
        assert!(matches!(&told, News::Problem(Some(problem)) if problem.contains("state-dir") && problem.contains("restart")), "{told:?}");

        publish(&format!("{text}backend: direct\n"), net_conf);
        assert!(matches!(news(&mut watch).await, News::Problem(None)));

        publish(&format!("{text}backend: host-gw\n"), net_conf);
        assert!(matches!(news(&mut watch).await, News::Changed));
        assert_eq!(watch.config().backend, Backend::HostGw);
    }
}
