//! ICMP echo with the `ping` binary: the sceptic's tool, not ours.

use crate::command;
use crate::netns::Ns;
use std::net::Ipv4Addr;

/// How to ping.
#[derive(Clone, Copy, Debug)]
pub struct Ping {
    /// Requests to send.
    pub count: u32,
    /// Bytes of payload: the IP packet is 28 longer.
    pub size: u16,
    /// Set the DF bit (`-M do`).
    pub dont_fragment: bool,
    /// TTL of the request.
    pub ttl: u8,
    /// TOS byte of the request: DSCP and ECN.
    pub tos: u8,
}

impl Default for Ping {
    fn default() -> Self {
        Self { count: 1, size: 56, dont_fragment: false, ttl: 64, tos: 0 }
    }
}

/// What came back.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pong {
    /// Replies, each counted once.
    pub received: u32,
    /// Sequence numbers of the requests that were answered, from 1: tells a lost first packet from a lost last one.
    pub answered: Vec<u32>,
    /// The round trip of the last reply, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// TTL of the last reply as it came in.
    pub ttl: Option<u8>,
    /// The same reply again.
    pub duplicates: u32,
    /// Every error, as ping prints it: `From 10.244.1.1 icmp_seq=1 Frag needed and DF set (mtu = 1450)`.
    pub errors: Vec<String>,
}

impl Ping {
    /// Pings. No answer is an answer: see [`Pong::received`].
    ///
    /// # Errors
    /// `ping` is missing.
    pub fn run(&self, from: &Ns, to: Ipv4Addr) -> anyhow::Result<Pong> {
        let mut command = from.command("ping");
        command.args(["-n", "-W", "1", "-i", "0.01"]);
        command.args([
            "-c",
            &self.count.to_string(),
            "-s",
            &self.size.to_string(),
            "-t",
            &self.ttl.to_string(),
            "-Q",
            &self.tos.to_string(),
        ]);
        // Without DF: never (`dont`), so that path MTU discovery of an earlier ping does not decide.
        command.args(["-M", if self.dont_fragment { "do" } else { "dont" }]);
        let output = command::output(command.arg(to.to_string()))?;
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        Ok(parse(&text))
    }
}

/// Pings once and tells the round trip in milliseconds; `None`: no answer within a second.
///
/// # Errors
/// `ping` is missing.
pub fn once(from: &Ns, to: Ipv4Addr) -> anyhow::Result<Option<f64>> {
    Ok(Ping::default().run(from, to)?.rtt_ms)
}

fn parse(text: &str) -> Pong {
    let mut pong = Pong::default();
    for line in text.lines() {
        if line.contains(" bytes from ") {
            if line.contains("(DUP!)") {
                pong.duplicates += 1;
            } else {
                pong.received += 1;
                pong.answered.extend(word_after(line, "icmp_seq=").and_then(|word| word.parse::<u32>().ok()));
            }
            pong.rtt_ms = word_after(line, "time=").and_then(|word| word.parse().ok());
            pong.ttl = word_after(line, "ttl=").and_then(|word| word.parse().ok());
        } else if line.starts_with("From ") || line.starts_with("ping: ") {
            pong.errors.push(line.to_owned());
        }
    }
    pong
}

fn word_after<'line>(line: &'line str, key: &str) -> Option<&'line str> {
    line.split_once(key)?.1.split_whitespace().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_ping_prints() {
        let text = "PING 10.244.2.11 (10.244.2.11) 56(84) bytes of data.\n\
                    64 bytes from 10.244.2.11: icmp_seq=1 ttl=62 time=0.231 ms\n\
                    64 bytes from 10.244.2.11: icmp_seq=1 ttl=62 time=0.250 ms (DUP!)\n\
                    From 10.244.1.1 icmp_seq=2 Frag needed and DF set (mtu = 1450)\n\
                    ping: local error: message too long, mtu=1450\n\
                    \n--- 10.244.2.11 ping statistics ---\n";
        let pong = parse(text);
        assert_eq!((pong.received, pong.duplicates, pong.ttl, pong.rtt_ms), (1, 1, Some(62), Some(0.25)));
        assert_eq!((pong.errors.len(), pong.answered), (2, vec![1]));
    }
}
