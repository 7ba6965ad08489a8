//! Dates of the proleptic Gregorian calendar, as Python's `datetime.date` has them.

use std::fmt;

pub(super) const WEEKDAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

pub(super) const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// A day. It prints as `2023-01-13`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Date {
    pub(super) year: i64,
    /// From 1.
    pub(super) month: i64,
    /// From 1.
    pub(super) day: i64,
}

impl Date {
    /// Days since 1 January of year 1, which is day 1.
    pub(super) fn ordinal(self) -> i64 {
        let before = self.year - 1;
        let years = before * 365 + before / 4 - before / 100 + before / 400;
        let months: i64 = (1..self.month).map(|month| month_len(self.year, month)).sum();
        years + months + self.day
    }

    /// The date this many days later; the year is known to about the number of days in `days` years.
    pub(super) fn plus(self, days: i64) -> Self {
        let mut date = self;
        date.day += days;
        while date.day < 1 {
            (date.year, date.month) = if date.month == 1 { (date.year - 1, 12) } else { (date.year, date.month - 1) };
            date.day += month_len(date.year, date.month);
        }
        while date.day > month_len(date.year, date.month) {
            date.day -= month_len(date.year, date.month);
            (date.year, date.month) = if date.month == 12 { (date.year + 1, 1) } else { (date.year, date.month + 1) };
        }
        date
    }

    /// From 0, which is Monday.
    pub(super) fn weekday(self) -> usize {
        ((self.ordinal() + 6) % 7) as usize
    }

    pub(super) fn weekday_name(self) -> &'static str {
        WEEKDAYS[self.weekday()]
    }

    pub(super) fn month_name(self) -> &'static str {
        MONTHS[self.month as usize - 1]
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

/// Days of a month.
pub(super) fn month_len(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Whether a year has a 29 February.
pub(super) fn is_leap(year: i64) -> bool {
    year.rem_euclid(4) == 0 && (year.rem_euclid(100) != 0 || year.rem_euclid(400) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recorded from CPython.
    #[test]
    fn dates_equal_python() {
        let date = Date { year: 2023, month: 1, day: 13 };
        assert_eq!((date.ordinal(), date.weekday_name()), (738_533, "Friday"));
        assert_eq!(date.plus(94).to_string(), "2023-04-17");
        assert_eq!(date.plus(-10_000).to_string(), "1995-08-28");
        assert_eq!(date.plus(10_000).to_string(), "2050-05-31");
        assert_eq!(Date { year: 2000, month: 2, day: 29 }.weekday_name(), "Tuesday");
        assert_eq!([1900, 2000, 2023, 2024, 0, -4, -100].map(is_leap), [false, true, false, true, true, true, false]);
    }
}
