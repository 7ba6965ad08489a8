//! When a client can be reached.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::check::{FieldError, within, wrong};
use crate::random::{Purpose, Stream};
use crate::time::{Time, nanoseconds};
use crate::trace::{Deal, Times};

/// When clients can be reached. A client is selected only then.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Availability {
    /// At any time.
    #[default]
    Always,
    /// For a part of each day.
    Periodic {
        /// Length of a day, seconds.
        #[serde(default = "day")]
        period_s: f64,
        /// How long of it a client can be reached, seconds.
        available_s: f64,
        /// How far apart days begin: 0 for all at once, 1 for evenly around the globe.
        #[serde(default = "one")]
        spread: f64,
    },
    /// From a trace.
    Trace {
        /// Each row has the times `[from, to)` at which a client can be reached, in seconds, in order and apart.
        rows: Arc<Times>,
        /// After how many seconds it all begins again.
        period_s: f64,
        /// Whose each row is.
        #[serde(default)]
        deal: Deal,
        /// Whether row `i` is of the device in row `i` of the [recorded](crate::Recorded) ones: a client has both.
        #[serde(default)]
        with_devices: bool,
    },
}

/// What becomes of work whose client goes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Leaving {
    /// It is lost. (`FedScale` does so too, but looks only at the moment at which the work would end.)
    #[default]
    Lost,
    /// It goes on when the client is back; its result then is that much more stale.
    Resumed,
}

fn day() -> f64 {
    86_400.0
}

fn one() -> f64 {
    1.0
}

/// Longest period: a hundred years.
const PERIOD_MOST_S: f64 = 100.0 * 365.25 * 86_400.0;
/// Most windows in all rows of a trace.
const WINDOWS_MOST: usize = 50_000_000;

impl Availability {
    /// Checks every field.
    pub(crate) fn check(&self, field: &str) -> Result<(), FieldError> {
        let path = |name: &str| format!("{field}.{name}");
        match self {
            Self::Always => Ok(()),
            Self::Periodic { period_s, available_s, spread } => {
                within(&path("period_s"), *period_s, 1e-3..=PERIOD_MOST_S)?;
                within(&path("available_s"), *available_s, 1e-3..=*period_s)?;
                within(&path("spread"), *spread, 0.0..=1.0)
            }
            Self::Trace { rows, period_s, .. } => {
                within(&path("period_s"), *period_s, 1e-3..=PERIOD_MOST_S)?;
                if rows.is_empty() || rows.iter().map(Vec::len).sum::<usize>() > WINDOWS_MOST {
                    let message = format!("{} rows; it takes 1 or more, of {WINDOWS_MOST} times at most", rows.len());
                    return Err(wrong(&path("rows"), message));
                }
                if rows.iter().all(Vec::is_empty) {
                    return Err(wrong(&path("rows"), "no row has a time at which a client can be reached"));
                }
                for (r, row) in rows.iter().enumerate() {
                    let mut last = 0.0;
                    for (i, &[from, to]) in row.iter().enumerate() {
                        within(&format!("{field}.rows[{r}][{i}][0]"), from, last..=*period_s)?;
                        within(&format!("{field}.rows[{r}][{i}][1]"), to, from..=*period_s)?;
                        last = to;
                    }
                }
                Ok(())
            }
        }
    }
}

/// Times at which each client can be reached.
#[derive(Debug, Clone)]
pub(crate) struct Calendar {
    /// None where all can be reached always.
    cycle: Option<Cycle>,
    seed: u64,
    clients: u32,
}

#[derive(Debug, Clone)]
struct Cycle {
    /// Windows `[from, to)` in nanoseconds, apart and in order, and how much of a cycle is within the windows before.
    rows: Vec<Vec<Window>>,
    /// Nanoseconds.
    period: u64,
    /// A client's cycle is ahead by at most this.
    spread: u64,
    /// Whose each row is, and what that is drawn for.
    deal: (Deal, Purpose),
}

#[derive(Debug, Clone, Copy)]
struct Window {
    from: u64,
    to: u64,
    before: u64,
}

impl Calendar {
    /// The calendar of `clients`. The fields have been checked.
    pub(crate) fn new(availability: &Availability, clients: u32, seed: u64) -> Self {
        let cycle = match availability {
            Availability::Always => None,
            Availability::Periodic { period_s, available_s, spread } => {
                let period = nanoseconds(*period_s);
                let rows = vec![windows(&[[0.0, *available_s]], period)];
                let spread = nanoseconds(period_s * spread).min(period);
                Some(Cycle { rows, period, spread, deal: (Deal::InOrder, Purpose::Availability) })
            }
            Availability::Trace { rows, period_s, deal, with_devices } => {
                let period = nanoseconds(*period_s);
                let rows = rows.iter().map(|row| windows(row, period)).collect();
                let purpose = if *with_devices { Purpose::Device } else { Purpose::Availability };
                Some(Cycle { rows, period, spread: 0, deal: (*deal, purpose) })
            }
        };
        Self { cycle, seed, clients }
    }

    /// Until when `client` can be reached from `now` on without a break; none if it cannot be reached now.
    pub(crate) fn until(&self, client: u32, now: Time) -> Option<Time> {
        let Some((cycle, row, at)) = self.find(client, now) else { return Some(Time::NEVER) };
        let window = row.get(row.partition_point(|window| window.to <= at)).filter(|window| window.from <= at)?;
        let end = now.after(window.to - at);
        match row.first() {
            // The window goes on in the next cycle.
            Some(first) if window.to == cycle.period && first.from == 0 => {
                Some(if first.to == cycle.period { Time::NEVER } else { end.after(first.to) })
            }
            _ => Some(end),
        }
    }

    /// When `client` can next be reached, `now` included; none if never.
    pub(crate) fn next(&self, client: u32, now: Time) -> Option<Time> {
        let Some((cycle, row, at)) = self.find(client, now) else { return Some(now) };
        let next = match row.get(row.partition_point(|window| window.to <= at)) {
            Some(window) => window.from.saturating_sub(at),
            None => cycle.period - at + row.first()?.from,
        };
        Some(now.after(next))
    }

    /// When `work` nanoseconds that `client` begins at `start` are done, if it works whenever it can be reached.
    pub(crate) fn done(&self, client: u32, start: Time, work: u64) -> Time {
        let Some((cycle, row, at)) = self.find(client, start) else { return start.after(work) };
        let total = reached(row, cycle.period);
        if work == 0 {
            return start;
        }
        if total == 0 {
            return Time::NEVER;
        }
        // Counted from the beginning of this cycle, the last nanosecond of the work is the `last`-th within windows.
        let Some(last) = reached(row, at).checked_add(work) else { return Time::NEVER };
        let (cycles, rest) = ((last - 1) / total, (last - 1) % total + 1);
        let index = row.partition_point(|window| window.before < rest).saturating_sub(1);
        let end = row.get(index).map_or(0, |window| window.from + (rest - window.before));
        let Some(elapsed) = cycle.period.checked_mul(cycles).and_then(|cycles| cycles.checked_add(end)) else {
            return Time::NEVER;
        };
        start.after(elapsed.saturating_sub(at))
    }

    /// For how many nanoseconds from `start` to `end` `client` could be reached.
    pub(crate) fn worked(&self, client: u32, start: Time, end: Time) -> u64 {
        let Some((cycle, row, at)) = self.find(client, start) else { return end.since(start) };
        let last = at.saturating_add(end.since(start));
        let whole = (last / cycle.period).saturating_mul(reached(row, cycle.period));
        whole.saturating_add(reached(row, last % cycle.period)).saturating_sub(reached(row, at))
    }

    /// The client's row, and where in its cycle it is at `now`; none where it can be reached always.
    fn find(&self, client: u32, now: Time) -> Option<(&Cycle, &[Window], u64)> {
        let cycle = self.cycle.as_ref()?;
        let (deal, purpose) = cycle.deal;
        let row = deal.row(self.seed, purpose, client, self.clients, cycle.rows.len());
        let ahead = match cycle.spread {
            0 => 0,
            spread => Stream::new(self.seed, Purpose::Availability, u64::from(client), 0).below(spread),
        };
        // Less than a period and less than a century: far from the end of the range.
        let at = (now.0 % cycle.period + ahead) % cycle.period;
        Some((cycle, cycle.rows.get(row)?, at))
    }
}

/// Nanoseconds within windows from the beginning of the cycle to `at`.
fn reached(row: &[Window], at: u64) -> u64 {
    let index = row.partition_point(|window| window.from < at);
    match index.checked_sub(1).and_then(|index| row.get(index)) {
        Some(window) => window.before + at.min(window.to) - window.from,
        None => 0,
    }
}

/// Windows in nanoseconds; those that touch are one, and those of no length none.
fn windows(row: &[[f64; 2]], period: u64) -> Vec<Window> {
    let mut windows: Vec<Window> = Vec::with_capacity(row.len());
    for &[from, to] in row {
        let (from, to) = (nanoseconds(from), nanoseconds(to).min(period));
        if from >= to {
            continue;
        }
        match windows.last_mut() {
            Some(last) if last.to >= from => last.to = last.to.max(to),
            last => {
                let before = last.map_or(0, |last| last.before + last.to - last.from);
                windows.push(Window { from, to, before });
            }
        }
    }
    windows
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn at(seconds: u64) -> Time {
        Time(seconds * S)
    }

    fn trace(rows: &[&[[f64; 2]]]) -> Calendar {
        let rows = rows.iter().map(|row| row.to_vec()).collect::<Vec<_>>().into();
        let trace = Availability::Trace { rows, period_s: 10.0, deal: Deal::Shuffled, with_devices: false };
        trace.check("availability").unwrap();
        Calendar::new(&trace, 1, 1)
    }

    #[test]
    fn windows_are_half_open_and_repeat() {
        let calendar = trace(&[&[[1.0, 3.0], [3.0, 4.0], [6.0, 7.0]]]);
        let until = |s| calendar.until(0, at(s)).map(|time| time.0 / S);
        assert_eq!(
            [0, 1, 3, 4, 6, 7, 11, 24].map(until),
            [None, Some(4), Some(4), None, Some(7), None, Some(14), None]
        );
        let next = |s| calendar.next(0, at(s)).map(|time| time.0 / S);
        assert_eq!([0, 1, 4, 6, 7, 27].map(next), [Some(1), Some(1), Some(6), Some(6), Some(11), Some(31)]);
    }

    #[test]
    fn a_window_goes_on_past_the_end_of_a_cycle() {
        let calendar = trace(&[&[[0.0, 2.0], [8.0, 10.0]]]);
        assert_eq!(calendar.until(0, at(9)), Some(at(12)));
        assert_eq!(calendar.until(0, at(10)), Some(at(12)));
        let calendar = trace(&[&[[0.0, 10.0]]]);
        assert_eq!(calendar.until(0, at(9)), Some(Time::NEVER));
    }

    #[test]
    fn work_is_done_within_windows_only() {
        let calendar = trace(&[&[[1.0, 4.0], [6.0, 7.0]]]);
        let done = |start, work| calendar.done(0, at(start), work * S).0 / S;
        // Windows: 1-4, 6-7, 11-14, 16-17, ...
        assert_eq!(done(2, 2), 4);
        assert_eq!(done(2, 3), 7);
        assert_eq!(done(2, 4), 12);
        assert_eq!(done(2, 7), 17);
        assert_eq!(done(13, 1), 14);
        assert_eq!(done(13, 400), 1013);
        assert_eq!(done(3, 0), 3);
        for start in [1, 2, 3, 6, 11, 13] {
            for work in 1..50 {
                let end = calendar.done(0, at(start), work * S);
                assert_eq!(calendar.worked(0, at(start), end), work * S, "{start} {work}");
                assert_eq!(calendar.worked(0, at(start), Time(end.0 - 1)), work * S - 1, "{start} {work}");
            }
        }
        assert_eq!(calendar.worked(0, at(0), at(0)), 0);
        assert_eq!(calendar.worked(0, at(5), at(16)), 4 * S);
    }

    #[test]
    fn days_begin_apart() {
        let periodic = |spread| Availability::Periodic { period_s: 10.0, available_s: 4.0, spread };
        let calendar = Calendar::new(&periodic(1.0), 10_000, 1);
        for now in [0, 3, 77] {
            let there = (0..10_000).filter(|&client| calendar.until(client, at(now)).is_some()).count();
            // Four of ten, give or take five standard deviations of 49.
            assert!(there.abs_diff(4_000) < 245, "{there}");
        }
        let calendar = Calendar::new(&periodic(0.0), 100, 1);
        assert!((0..100).all(|client| calendar.until(client, at(3)) == Some(at(4))));
        assert!((0..100).all(|client| calendar.until(client, at(4)).is_none()));
    }

    #[test]
    fn rows_are_dealt_out_evenly_and_one_may_be_empty() {
        let rows = vec![vec![[0.0, 1.0]], vec![], vec![[2.0, 3.0]]];
        let (rows, deal) = (rows.into(), Deal::Shuffled);
        let calendar = Calendar::new(&Availability::Trace { rows, period_s: 4.0, deal, with_devices: false }, 30, 2);
        let next: Vec<Option<Time>> = (0..30).map(|client| calendar.next(client, Time::START)).collect();
        for expected in [Some(at(0)), None, Some(at(2))] {
            assert_eq!(next.iter().filter(|&&next| next == expected).count(), 10);
        }
        let never = (0..30).filter(|&client| calendar.done(client, at(0), 1) == Time::NEVER).count();
        assert_eq!(never, 10);
    }

    #[test]
    fn every_wrong_field_is_named_with_what_it_may_be() {
        let cases = [
            ("kind = 'periodic'\nperiod_s = 0\navailable_s = 1", "`a.period_s`: 0 is not a number from 0.001 to"),
            ("kind = 'periodic'\navailable_s = 1e5", "`a.available_s`: 100000 is not a number from 0.001 to 86400"),
            ("kind = 'periodic'\navailable_s = 1\nspread = 2", "`a.spread`: 2 is not a number from 0 to 1"),
            ("kind = 'trace'\nperiod_s = 9\nrows = []", "`a.rows`: 0 rows; it takes 1 or more"),
            ("kind = 'trace'\nperiod_s = 9\nrows = [[]]", "`a.rows`: no row has a time"),
            ("kind = 'trace'\nperiod_s = 9\nrows = [[[3, 2]]]", "`a.rows[0][0][1]`: 2 is not a number from 3 to 9"),
            ("kind = 'trace'\nperiod_s = 9\nrows = [[[1, 2], [0, 3]]]", "`a.rows[0][1][0]`: 0 is not a number from 2"),
            ("kind = 'trace'\nperiod_s = 9\nrows = [[[1, 10]]]", "`a.rows[0][0][1]`: 10 is not a number from 1 to 9"),
            ("kind = 'trace'\nperiod_s = nan\nrows = [[[1, 2]]]", "`a.period_s`: NaN"),
        ];
        for (text, expected) in cases {
            let error = toml::from_str::<Availability>(text).unwrap().check("a").unwrap_err().to_string();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }
}
