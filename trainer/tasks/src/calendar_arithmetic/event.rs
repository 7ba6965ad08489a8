//! The seven sorts of questions.

use serde_json::{Value, json};

use super::date::{Date, MONTHS, WEEKDAYS, is_leap, month_len};
use super::{Calendar, Sort};
use crate::Mode;
use crate::random::PyRandom;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Event {
    WeekdayOffset { start: Date, offset: i64 },
    WeekdayOfDate { date: Date },
    WeekdayOfDateFromFirstDate { first: usize, date: Date, delta: i64 },
    RecurringEventDay { year: i64, month: i64, ordinal: &'static str, weekday: usize },
    CountDays { start: Date, end: Date },
    CountBusinessDays { start: Date, end: Date },
    IsLeapYear { year: i64, is_leap: bool },
}

impl Event {
    pub(super) fn sort(self) -> Sort {
        match self {
            Self::WeekdayOffset { .. } => Sort::WeekdayOffset,
            Self::WeekdayOfDate { .. } => Sort::WeekdayOfDate,
            Self::WeekdayOfDateFromFirstDate { .. } => Sort::WeekdayOfDateFromFirstDate,
            Self::RecurringEventDay { .. } => Sort::RecurringEventDay,
            Self::CountDays { .. } => Sort::CountDays,
            Self::CountBusinessDays { .. } => Sort::CountBusinessDays,
            Self::IsLeapYear { .. } => Sort::IsLeapYear,
        }
    }

    pub(crate) fn to_json(self) -> Value {
        let task = self.sort().name();
        match self {
            Self::WeekdayOffset { start, offset } => json!({
                "task": task, "start_date": start.to_string(), "offset_days": offset,
                "target_date": start.plus(offset).to_string(),
            }),
            Self::WeekdayOfDate { date } => json!({ "task": task, "target_date": date.to_string() }),
            Self::WeekdayOfDateFromFirstDate { first, date, delta } => json!({
                "task": task, "year": date.year, "first_day": WEEKDAYS[first], "target_date": date.to_string(),
                "delta_days": delta,
            }),
            Self::RecurringEventDay { year, month, ordinal, weekday } => json!({
                "task": task, "year": year, "month": month, "ordinal": ordinal, "weekday": WEEKDAYS[weekday],
            }),
            Self::CountDays { start, end } => json!({
                "task": task, "year": start.year, "start_date": start.to_string(), "end_date": end.to_string(),
            }),
            Self::CountBusinessDays { start, end } => {
                json!({ "task": task, "start_date": start.to_string(), "end_date": end.to_string() })
            }
            Self::IsLeapYear { year, is_leap } => json!({ "task": task, "year": year, "is_leap": is_leap }),
        }
    }
}

const DAY_HINTS: [&str; 9] = [
    "Answer with the weekday's name (e.g., Monday, Tuesday, etc.).",
    "Provide the full name of the weekday.",
    "State the weekday (Monday through Sunday).",
    "Give the weekday name in full.",
    "Reply with just the weekday name.",
    "Write out the full weekday name.",
    "Respond with the weekday (Monday-Sunday).",
    "Answer using the complete weekday name.",
    "Name the day of the week in full.",
];

const COUNT_HINTS: [&str; 8] = [
    "Answer with a number.",
    "Provide the count as a number.",
    "Respond with just the number.",
    "Write the total number.",
    "Give the count numerically.",
    "State the amount as a number.",
    "Reply with the numerical value.",
    "Express your answer as a number.",
];

/// A question, its answer and what is asked.
type Asked = (String, String, Event);

impl Calendar {
    pub(super) fn event(&self, rng: &mut PyRandom, sort: Sort) -> Asked {
        match sort {
            Sort::WeekdayOffset => self.weekday_offset(rng),
            Sort::WeekdayOfDate => self.weekday_of_date(rng),
            Sort::WeekdayOfDateFromFirstDate => self.weekday_from_first(rng),
            Sort::RecurringEventDay => self.recurring(rng),
            Sort::CountDays => self.count_days(rng),
            Sort::CountBusinessDays => self.count_business_days(rng),
            Sort::IsLeapYear => self.leap_year(rng),
        }
    }

    fn weekday_offset(&self, rng: &mut PyRandom) -> Asked {
        let start = self.date(rng);
        let days = rng.randint(1, self.offset_upper_bound);
        let ahead = *rng.choice(&[false, true]);
        let offset = if ahead { days } else { -days };
        let target = start.plus(offset).weekday_name();
        let (weekday, month) = (start.weekday_name(), start.month_name());
        let from = format!("{weekday}, {month} {}, {}", start.day, start.year);
        let text = match (ahead, rng.below(3)) {
            (true, 0) => format!("If today is {from}, what day of the week will it be in {days} days? "),
            (true, 1) => format!("Starting from {from}, which weekday falls after a {days}-day jump? "),
            (true, _) => format!("Count forward {days} days from {from} - what's the weekday? "),
            (false, 0) => format!("If today is {from}, what day of the week was it {days} days ago? "),
            (false, 1) => format!("Starting from {from}, which weekday was it {days} days before? "),
            (false, _) => format!("Count backward {days} days from {from} - what's the weekday? "),
        };
        (text + *rng.choice(&DAY_HINTS), target.to_owned(), Event::WeekdayOffset { start, offset })
    }

    fn weekday_of_date(&self, rng: &mut PyRandom) -> Asked {
        let date = self.date(rng);
        let Date { year, month, day } = date;
        let name = date.month_name();
        let text = match rng.below(3) {
            0 => format!("What day of the week was {name} {day}, {year}? "),
            1 => format!("On which weekday did {name} {day}, {year} fall? "),
            _ => format!("Name the day of the week for {month:02}/{day:02}/{year}. "),
        };
        (text + *rng.choice(&DAY_HINTS), date.weekday_name().to_owned(), Event::WeekdayOfDate { date })
    }

    fn weekday_from_first(&self, rng: &mut PyRandom) -> Asked {
        let first = rng.below(7) as usize;
        let most = self.offset_upper_bound.min(self.year_len() - 1);
        // 1 January itself is drawn again.
        let delta = loop {
            match rng.randint(0, most) {
                0 => {}
                delta => break delta,
            }
        };
        let date = self.new_year().plus(delta);
        let answer = WEEKDAYS[(first + delta as usize) % 7];
        let (weekday, month, day) = (WEEKDAYS[first], date.month_name(), date.day);
        let text = match rng.below(3) {
            0 => format!("If the first day of the year was a {weekday}, what day of the week will {month} {day} be? "),
            1 => format!("Given that January 1 fell on a {weekday}, which weekday occurs on {month} {day}? "),
            _ => format!("In a year where {weekday} is January 1st, name the weekday of {month} {day}. "),
        };
        let event = Event::WeekdayOfDateFromFirstDate { first, date, delta };
        (text + *rng.choice(&DAY_HINTS), answer.to_owned(), event)
    }

    fn recurring(&self, rng: &mut PyRandom) -> Asked {
        const ORDINALS: [&str; 5] = ["first", "second", "third", "fourth", "last"];
        let year = self.year;
        let month = rng.randint(1, 12);
        let place = rng.below(5) as usize;
        let ordinal = ORDINALS[place];
        let weekday = rng.below(7) as usize;
        let first = (7 + weekday - Date { year, month, day: 1 }.weekday()) % 7 + 1;
        let len = month_len(year, month) as usize;
        // Every weekday comes at least four times in a month.
        let day = if ordinal == "last" { first + (len - first) / 7 * 7 } else { first + 7 * place };
        let (name, month_name) = (WEEKDAYS[weekday], MONTHS[month as usize - 1]);
        let text = match rng.below(3) {
            0 => format!(
                "If a meeting is scheduled on the {ordinal} {name} of {month_name} {year}, on which day of the month \
                 does it occur? "
            ),
            1 => format!(
                "In {month_name} {year}, if an event recurs on the {ordinal} {name}, what is the date (day of the \
                 month) of the event? "
            ),
            _ => format!("Determine the day of the month for the {ordinal} {name} in {month_name} {year}. "),
        };
        let text = text + *rng.choice(&COUNT_HINTS) + " Answer with -1 if the ordinal does not exist in the month.";
        (text, day.to_string(), Event::RecurringEventDay { year, month, ordinal, weekday })
    }

    fn count_days(&self, rng: &mut PyRandom) -> Asked {
        let from = rng.randint(0, self.year_len() - 1);
        let start = self.new_year().plus(from);
        let most = self.offset_upper_bound.min(self.year_len() - 1 - from);
        let days = rng.randint(0, most);
        let end = start.plus(days);
        let weekday = rng.below(7) as usize;
        let ahead = ((7 + weekday - start.weekday()) % 7) as i64;
        let count = (days + 7 - ahead) / 7;
        let name = WEEKDAYS[weekday];
        let ([a, b], year) = ([start, end].map(named), self.year);
        let text = match rng.below(3) {
            0 => format!("How many {name}s are there from {a}, {year} to {b}, {year} (inclusive of both dates)? "),
            1 => format!(
                "Count the occurrences of {name} from {a} to {b}, {year} (including both start and end dates). "
            ),
            _ => {
                format!("Between {a}, {year} and {b}, {year} (counting both dates), how many times does {name} occur? ")
            }
        };
        (text + *rng.choice(&COUNT_HINTS), count.to_string(), Event::CountDays { start, end })
    }

    fn count_business_days(&self, rng: &mut PyRandom) -> Asked {
        let start = self.new_year().plus(rng.randint(0, self.year_len() - 1));
        let days = rng.randint(0, self.offset_upper_bound) + 1;
        // The last day may lie in the next year, and is called one of this year all the same.
        let end = start.plus(days - 1);
        let rest = (0..days as usize % 7).filter(|day| (start.weekday() + day) % 7 < 5).count();
        let count = days as usize / 7 * 5 + rest;
        let ([a, b], year) = ([start, end].map(named), self.year);
        let text = match rng.below(3) {
            0 => format!(
                "How many business days (Monday-Friday) are there from {a}, {year} to {b}, {year} (inclusive of both \
                 dates)? "
            ),
            1 => format!(
                "Count the weekdays (excluding weekends) from {a} to {b}, {year} (including both start and end dates). "
            ),
            _ => format!(
                "Between {a}, {year} and {b}, {year} (counting both dates), what's the total count of business days \
                 (Monday through Friday)? "
            ),
        };
        (text + *rng.choice(&COUNT_HINTS), count.to_string(), Event::CountBusinessDays { start, end })
    }

    /// In hardened mode every second year asked for is a leap year, where there is one: else "No" is right three times
    /// in four.
    fn leap_year(&self, rng: &mut PyRandom) -> Asked {
        let half = self.leap_year_range / 2;
        let mut year = rng.randint(self.year - half, self.year + half);
        if self.mode == Mode::Hardened {
            let wanted = rng.coin();
            let again = (0..64).map(|_| rng.randint(self.year - half, self.year + half));
            year = std::iter::once(year).chain(again).find(|&year| is_leap(year) == wanted).unwrap_or(year);
        }
        let is_leap = is_leap(year);
        let text = match rng.below(3) {
            0 => format!("Determine if the year {year} is a leap year. "),
            1 => format!("Is {year} a leap year? "),
            _ => format!("Tell me whether {year} is a leap year. "),
        };
        let answer = if is_leap { "Yes" } else { "No" };
        (text + "Answer with Yes or No.", answer.to_owned(), Event::IsLeapYear { year, is_leap })
    }

    fn new_year(&self) -> Date {
        Date { year: self.year, month: 1, day: 1 }
    }

    fn year_len(&self) -> i64 {
        365 + i64::from(is_leap(self.year))
    }

    /// A month of the year, then a day of that month.
    fn date(&self, rng: &mut PyRandom) -> Date {
        let month = rng.randint(1, 12);
        Date { year: self.year, month, day: rng.randint(1, month_len(self.year, month)) }
    }
}

/// `Friday, January 13`.
fn named(date: Date) -> String {
    format!("{}, {} {}", date.weekday_name(), date.month_name(), date.day)
}
