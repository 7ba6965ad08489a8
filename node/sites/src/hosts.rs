//! Machines that are reached over SSH: a file with one on each line, or a list in one argument.
//!
//! ```text
//! # name or address       how many ranks it takes, 1 where nothing is said
//! gpu1                    slots=4
//! me@gpu2.example:2222    slots=2
//! [2001:db8::7]:22        slots=2   # an IPv6 address stands in brackets
//! ```
//!
//! A number after a colon is a port here, as everywhere with SSH, and `slots=` is Open MPI's word. The short form has slots
//! after the colon and no ports: `gpu1:4,me@gpu2.example:2`.

use std::collections::HashMap;

use serde::Serialize;

use crate::MOST;

/// A machine, and how many ranks it takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Host {
    /// Whom to log in as; none leaves that to SSH.
    pub user: Option<String>,
    /// A name or an address; an IPv6 address without brackets.
    pub host: String,
    /// Where its SSH server listens; none leaves that to SSH.
    pub port: Option<u16>,
    /// How many ranks it takes, from 1.
    pub slots: usize,
}

/// Why a text names no hosts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HostsError {
    /// A line cannot be read.
    #[error("line {line}: {found:?}: {expected}")]
    Line {
        /// Which, from 1.
        line: usize,
        /// What stands there.
        found: String,
        /// What might.
        expected: String,
    },
    /// A part of the short form cannot be read.
    #[error("host {at}: {found:?}: {expected}")]
    Part {
        /// Which, from 1.
        at: usize,
        /// What stands there.
        found: String,
        /// What might.
        expected: String,
    },
    /// There is no host.
    #[error("no host: give one on each line, as in `gpu1 slots=4`")]
    None,
    /// There are more slots than a job has ranks.
    #[error("{slots} slots in all; no more than {MOST} can be used")]
    TooMany {
        /// Those of all hosts.
        slots: usize,
    },
}

/// The hosts that a file names, in its order. `#` begins a comment.
///
/// # Errors
/// [`HostsError`]: the line, what stands there, and what might. A machine may be named once: ranks of two lines would take
/// the same GPUs.
pub fn file(text: &str) -> Result<Vec<Host>, HostsError> {
    let mut seen = Seen::default();
    let mut hosts = Vec::new();
    for (number, line) in text.lines().enumerate().map(|(index, line)| (index + 1, line)) {
        let words = line.split('#').next().unwrap_or_default();
        let mut words = words.split_whitespace();
        let Some(first) = words.next() else { continue };
        let wrong = |(found, expected): Wrong| HostsError::Line { line: number, found, expected };
        let (user, host, port) = address(first).map_err(wrong)?;
        let mut slots = None;
        for word in words {
            slots = Some(option(word, slots).map_err(wrong)?);
        }
        if let Some(port) = port
            && port < 22
        {
            let expected = format!("{port} after the colon is a port here; for that many ranks write `slots={port}`");
            return Err(wrong((first.to_owned(), expected)));
        }
        let host = Host { user, host, port, slots: slots.unwrap_or(1) };
        if let Some(line) = seen.before(&host, number) {
            let expected = format!("named in line {line} before; give all its slots there");
            return Err(wrong((first.to_owned(), expected)));
        }
        hosts.push(host);
    }
    bounded(hosts)
}

/// The hosts of the short form, `gpu1:4,me@gpu2.example:2`, with a number of ranks after the colon, 1 where there is none.
///
/// # Errors
/// [`HostsError`], as for a file.
pub fn short(text: &str) -> Result<Vec<Host>, HostsError> {
    let mut seen = Seen::default();
    let mut hosts = Vec::new();
    if text.trim().is_empty() {
        return Err(HostsError::None);
    }
    for (at, part) in text.split(',').enumerate().map(|(index, part)| (index + 1, part.trim())) {
        let wrong = |(found, expected): Wrong| HostsError::Part { at, found, expected };
        let (user, host, number) = split(part).map_err(wrong)?;
        let slots = number.map_or(Ok(1), |number| slots(part, number)).map_err(wrong)?;
        let host = Host { user, host, port: None, slots };
        if let Some(before) = seen.before(&host, at) {
            let expected = format!("host {before} already; give all its slots there");
            return Err(wrong((part.to_owned(), expected)));
        }
        hosts.push(host);
    }
    bounded(hosts)
}

/// What stands there, and what might.
type Wrong = (String, String);

/// Machines already named, by name and port, with where.
#[derive(Default)]
struct Seen(HashMap<(String, Option<u16>), usize>);

impl Seen {
    fn before(&mut self, host: &Host, at: usize) -> Option<usize> {
        self.0.insert((host.host.to_ascii_lowercase(), host.port), at)
    }
}

fn bounded(hosts: Vec<Host>) -> Result<Vec<Host>, HostsError> {
    match hosts.iter().fold(0_usize, |sum, host| sum.saturating_add(host.slots)) {
        0 => Err(HostsError::None),
        1..=MOST => Ok(hosts),
        slots => Err(HostsError::TooMany { slots }),
    }
}

/// `user@host:port`.
fn address(word: &str) -> Result<(Option<String>, String, Option<u16>), Wrong> {
    let (user, host, port) = split(word)?;
    let read = |port: &str| {
        let port = port.parse().ok().filter(|port| *port > 0);
        port.ok_or_else(|| (word.to_owned(), "a port is from 1 to 65535".to_owned()))
    };
    Ok((user, host, port.map(read).transpose()?))
}

/// `user@host:number` or `user@[address]:number`, the number unread.
fn split(word: &str) -> Result<(Option<String>, String, Option<&str>), Wrong> {
    let wrong = |expected: &str| (word.to_owned(), expected.to_owned());
    let (user, rest) = match word.split_once('@') {
        Some((user, rest)) => (Some(user), rest),
        None => (None, word),
    };
    if user.is_some_and(|user| !name(user)) {
        return Err(wrong("a user's name has letters, digits, `.`, `-` and `_`"));
    }
    let (host, number) = match rest.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or_else(|| wrong("`]` is missing after the address"))?;
            let address = host.split('%').next().unwrap_or_default();
            let zone = host.split_once('%').is_none_or(|(_, zone)| name(zone));
            if address.parse::<std::net::Ipv6Addr>().is_err() || !zone {
                return Err(wrong("what stands in brackets is an IPv6 address"));
            }
            match rest.strip_prefix(':') {
                None if !rest.is_empty() => return Err(wrong("after `]` comes a colon and a number, or nothing")),
                number => (host, number),
            }
        }
        None => match rest.split_once(':') {
            Some((_, number)) if number.contains(':') => {
                return Err(wrong("an IPv6 address stands in brackets, as in `[::1]`"));
            }
            Some((host, number)) => (host, Some(number)),
            None => (rest, None),
        },
    };
    if !rest.starts_with('[') && !name(host) {
        return Err(wrong("a host's name has letters, digits, `.`, `-` and `_`, and begins with a letter or a digit"));
    }
    Ok((user.map(str::to_owned), host.to_owned(), number))
}

/// What SSH can take for no option, and a shell for nothing else.
fn name(text: &str) -> bool {
    let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    first && text.len() <= 253 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
}

/// `slots=4`, after what was said before on the line.
fn option(word: &str, before: Option<usize>) -> Result<usize, Wrong> {
    match word.split_once('=') {
        Some(("slots", _)) if before.is_some() => Err((word.to_owned(), "slots are given twice".to_owned())),
        Some(("slots", number)) => slots(word, number),
        _ => Err((word.to_owned(), "after the host comes `slots=` and a number, or a comment with `#`".to_owned())),
    }
}

fn slots(word: &str, number: &str) -> Result<usize, Wrong> {
    let slots = number.parse().ok().filter(|slots| (1..=MOST).contains(slots));
    slots.ok_or_else(|| (word.to_owned(), format!("slots are a number from 1 to {MOST}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(user: Option<&str>, host: &str, port: Option<u16>, slots: usize) -> Host {
        Host { user: user.map(str::to_owned), host: host.to_owned(), port, slots }
    }

    #[test]
    fn a_file_names_hosts() {
        let text = "# ours\n\ngpu1 slots=4\r\n  me@gpu2.example:2222\tslots=2 # fast\n10.0.0.7#near\n[2001:db8::7]:22 slots=2\n\
                    root@[fe80::1%eth0]\na:2201\na:2202\n";
        let told = vec![
            host(None, "gpu1", None, 4),
            host(Some("me"), "gpu2.example", Some(2222), 2),
            host(None, "10.0.0.7", None, 1),
            host(None, "2001:db8::7", Some(22), 2),
            host(Some("root"), "fe80::1%eth0", None, 1),
            host(None, "a", Some(2201), 1),
            host(None, "a", Some(2202), 1),
        ];
        assert_eq!(file(text), Ok(told));
    }

    #[test]
    fn the_short_form_names_hosts() {
        let told = vec![host(None, "a", None, 2), host(Some("me"), "b", None, 1), host(None, "::1", None, 3)];
        assert_eq!(short("a:2, me@b,[::1]:3"), Ok(told));
        for (text, told) in [
            ("", "no host: give one on each line, as in `gpu1 slots=4`"),
            ("a:2,", "host 2: \"\": a host's name has letters"),
            ("a:0", "host 1: \"a:0\": slots are a number from 1 to 65536"),
            ("a:x", "host 1: \"a:x\": slots are a number from 1 to 65536"),
            ("a,b:2,A:1", "host 3: \"A:1\": host 1 already; give all its slots there"),
            ("a:40000,b:40000", "80000 slots in all; no more than 65536 can be used"),
        ] {
            let error = short(text).expect_err(text).to_string();
            assert!(error.starts_with(told), "{text}: {error}");
        }
    }

    #[test]
    fn a_wrong_line_is_located() {
        for (line, told) in [
            ("-oProxyCommand=x", "\"-oProxyCommand=x\": a host's name has letters"),
            ("-l@a", "\"-l@a\": a user's name has letters"),
            ("@a", "\"@a\": a user's name has letters"),
            ("a;b", "\"a;b\": a host's name has letters"),
            ("a@b@c", "\"a@b@c\": a host's name has letters"),
            ("a:0", "\"a:0\": a port is from 1 to 65535"),
            ("a:ssh", "\"a:ssh\": a port is from 1 to 65535"),
            ("a:4", "\"a:4\": 4 after the colon is a port here; for that many ranks write `slots=4`"),
            ("::1", "\"::1\": an IPv6 address stands in brackets, as in `[::1]`"),
            ("[::1", "\"[::1\": `]` is missing after the address"),
            ("[a]", "\"[a]\": what stands in brackets is an IPv6 address"),
            ("[::1%;]", "\"[::1%;]\": what stands in brackets is an IPv6 address"),
            ("[::1]22", "\"[::1]22\": after `]` comes a colon and a number, or nothing"),
            ("a 4", "\"4\": after the host comes `slots=` and a number"),
            ("a max_slots=4", "\"max_slots=4\": after the host comes `slots=` and a number"),
            ("a slots=", "\"slots=\": slots are a number from 1 to 65536"),
            ("a slots=-1", "\"slots=-1\": slots are a number from 1 to 65536"),
            ("a slots=1 slots=2", "\"slots=2\": slots are given twice"),
            ("me@FIRST slots=1", "\"me@FIRST\": named in line 1 before; give all its slots there"),
        ] {
            let error = file(&format!("first\n\n{line}\n")).expect_err(line).to_string();
            assert!(error.starts_with(&format!("line 3: {told}")), "{line}: {error}");
        }
        assert_eq!(file("# nobody\n"), Err(HostsError::None));
        assert_eq!(file("a slots=65536\nb"), Err(HostsError::TooMany { slots: 65_537 }));
    }
}
