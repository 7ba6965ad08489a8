//! Variables, read with their names at hand.

use super::{Meeting, PlaceError, RENDEZVOUS};
use crate::MOST;

/// What variables say.
pub(super) struct Said<'a> {
    variable: &'a dyn Fn(&str) -> Option<String>,
}

impl<'a> Said<'a> {
    pub(super) fn new(variable: &'a dyn Fn(&str) -> Option<String>) -> Said<'a> {
        Said { variable }
    }

    /// A variable without blanks around it; none where nothing is left.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        (self.variable)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.text(name).is_some()
    }

    /// The first of `names` that is set.
    pub(super) fn first(&self, names: &[&'static str]) -> Option<(&'static str, String)> {
        names.iter().find_map(|name| Some((*name, self.text(name)?)))
    }

    /// A rank or another index.
    pub(super) fn index(&self, name: &'static str) -> Result<Option<usize>, PlaceError> {
        let Some(value) = self.text(name) else { return Ok(None) };
        match value.parse() {
            Ok(index) if index < MOST => Ok(Some(index)),
            _ => Err(wrong(name, &value, format!("a whole number from 0 to {}", MOST - 1))),
        }
    }

    /// A number of ranks or of anything else of which there is one at least.
    pub(super) fn count(&self, name: &'static str) -> Result<Option<usize>, PlaceError> {
        let Some(value) = self.text(name) else { return Ok(None) };
        match value.parse() {
            Ok(count @ 1..=MOST) => Ok(Some(count)),
            _ => Err(wrong(name, &value, format!("a whole number from 1 to {MOST}"))),
        }
    }

    /// How often all have been started before; 0 where nobody says.
    pub(super) fn attempt(&self, name: &'static str) -> Result<u32, PlaceError> {
        let Some(value) = self.text(name) else { return Ok(0) };
        value.parse().map_err(|_| wrong(name, &value, format!("a whole number from 0 to {}", u32::MAX)))
    }

    /// A number that Slurm counts jobs and steps with.
    pub(super) fn number(&self, name: &'static str) -> Result<Option<u64>, PlaceError> {
        let Some(value) = self.text(name) else { return Ok(None) };
        value.parse().map(Some).map_err(|_| wrong(name, &value, "a whole number from 0".into()))
    }

    /// A port.
    pub(super) fn port(&self, name: &'static str, most: u16) -> Result<Option<u16>, PlaceError> {
        let Some(value) = self.text(name) else { return Ok(None) };
        match value.parse() {
            Ok(port) if (1..=most).contains(&port) => Ok(Some(port)),
            _ => Err(wrong(name, &value, format!("a port from 1 to {most}"))),
        }
    }

    /// An index below `below`, which the variable `by` says.
    pub(super) fn index_below(&self, name: &'static str, below: usize, by: &str) -> Result<Option<usize>, PlaceError> {
        let Some(index) = self.index(name)? else { return Ok(None) };
        match index < below {
            true => Ok(Some(index)),
            false => Err(wrong(name, &index.to_string(), format!("a number below {by}, which is {below}"))),
        }
    }

    /// A rank and how many there are, neither without the other.
    pub(super) fn pair(
        &self,
        index: &'static str,
        count: &'static str,
        fix: &'static str,
    ) -> Result<Option<(usize, usize)>, PlaceError> {
        let many = self.count(count)?;
        match (self.index(index)?, many) {
            (None, None) => Ok(None),
            (None, Some(_)) => Err(self.missing(index, &[count], fix)),
            (Some(_), None) => Err(self.missing(count, &[index], fix)),
            (Some(_), Some(many)) => Ok(self.index_below(index, many, count)?.map(|index| (index, many))),
        }
    }

    /// Where [`RENDEZVOUS`] says that ranks meet.
    pub(super) fn rendezvous(&self) -> Result<Option<Meeting>, PlaceError> {
        let Some(value) = self.text(RENDEZVOUS) else { return Ok(None) };
        let expected = "`host:port`, with an IPv6 address in brackets, and a port from 1 to 65535";
        meeting(&value).map(Some).ok_or_else(|| wrong(RENDEZVOUS, &value, expected.into()))
    }

    /// That `name` is missing beside `others`, of which those that are set are told.
    pub(super) fn missing(&self, name: &'static str, others: &[&str], fix: &'static str) -> PlaceError {
        let told = others.iter().filter_map(|other| Some(format!("{other} is {}", short(&self.text(other)?))));
        PlaceError::Missing { name, because: told.collect::<Vec<_>>().join(" and "), fix }
    }
}

/// That `name` should be something else than `value`.
pub(super) fn wrong(name: &'static str, value: &str, expected: String) -> PlaceError {
    PlaceError::Wrong { name, value: short(value), expected }
}

/// No more of a value than a message can hold.
pub(super) fn short(value: &str) -> String {
    match value.char_indices().nth(80) {
        Some((end, _)) => format!("{}...", &value[..end]),
        None => value.to_owned(),
    }
}

fn meeting(value: &str) -> Option<Meeting> {
    let (host, port) = value.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port > 0 && value.is_ascii())?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let name = |host: &str| !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || ":[]/@".contains(c));
    let host = match bare {
        Some(bare) if address(bare) => bare,
        None if name(host) => host,
        _ => return None,
    };
    Some(Meeting { host: host.to_owned(), port })
}

/// Whether `text` is an IPv6 address, with a zone or without.
fn address(text: &str) -> bool {
    text.split('%').next().is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok())
}
