//! `calendar_arithmetic`: weekdays, days between dates, leap years.

mod date;
mod event;

use serde_json::{Value, json};

use crate::config::Fields;
use crate::item::{Facts, Item};
use crate::puzzle::{Bounds, Drawn, Kind, Puzzle};
use crate::python::number::{Int, int};
use crate::python::text::strip;
use crate::random::PyRandom;
use crate::{Mode, TaskError};

use date::WEEKDAYS;
pub(crate) use event::Event;

pub(crate) const KIND: Kind = Kind {
    name: "calendar_arithmetic",
    description: "answer questions about weekdays, spans of days and leap years",
    read: |fields, mode| Ok(Box::new(Calendar::read(fields, mode)?)),
};

/// A sort of question, in the order of reasoning-gym's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    WeekdayOffset,
    WeekdayOfDate,
    WeekdayOfDateFromFirstDate,
    RecurringEventDay,
    CountDays,
    CountBusinessDays,
    IsLeapYear,
}

impl Sort {
    const ALL: [Self; 7] = [
        Self::WeekdayOffset,
        Self::WeekdayOfDate,
        Self::WeekdayOfDateFromFirstDate,
        Self::RecurringEventDay,
        Self::CountDays,
        Self::CountBusinessDays,
        Self::IsLeapYear,
    ];
    const NAMES: [&'static str; 7] = [
        "weekday_offset",
        "weekday_of_date",
        "weekday_of_date_from_first_date",
        "recurring_event_day",
        "count_days",
        "count_business_days",
        "is_leap_year",
    ];

    fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

#[derive(Debug)]
struct Calendar {
    year: i64,
    sorts: Vec<Sort>,
    offset_upper_bound: i64,
    leap_year_range: i64,
    mode: Mode,
}

impl Calendar {
    fn read(fields: &mut Fields, mode: Mode) -> Result<Self, TaskError> {
        const DEFAULT: [&str; 4] = ["count_days", "weekday_of_date", "is_leap_year", "recurring_event_day"];
        Ok(Self {
            // Four digits, also of a date that lies the most days ahead.
            year: fields.int("year", 2023, 1100..=9900)?,
            sorts: fields.choices("tasks", &DEFAULT, &Sort::NAMES, 32)?.into_iter().map(|i| Sort::ALL[i]).collect(),
            offset_upper_bound: fields.int("offset_upper_bound", 100, 1..=10_000)?,
            leap_year_range: fields.int("leap_year_range", 200, 0..=2000)?,
            mode,
        })
    }
}

impl Puzzle for Calendar {
    fn draw(&self, rng: &mut PyRandom) -> Option<Drawn> {
        let sort = *rng.choice(&self.sorts);
        let (question, answer, event) = self.event(rng, sort);
        Some(Drawn { question, answer: Some(answer), facts: Facts::Calendar(event) })
    }

    /// reasoning-gym pays .1 for any weekday, .05 where its case is wrong, and `exp(-5 * relative error)` for any
    /// number. In hardened mode only the right answer scores, whatever its case.
    fn score(&self, item: &Item, answer: &str) -> f64 {
        let (Facts::Calendar(event), Some(oracle)) = (&item.metadata.facts, item.answer.as_deref()) else { return 0.0 };
        if answer.is_empty() {
            return 0.0;
        }
        let answer = strip(answer);
        match event.sort() {
            Sort::IsLeapYear => f64::from(answer.eq_ignore_ascii_case(oracle)),
            Sort::WeekdayOffset | Sort::WeekdayOfDate | Sort::WeekdayOfDateFromFirstDate => match self.mode {
                Mode::Hardened => f64::from(answer.eq_ignore_ascii_case(oracle)),
                Mode::Exact if answer == oracle => 1.0,
                Mode::Exact if WEEKDAYS.contains(&answer) => 0.1,
                Mode::Exact if WEEKDAYS.iter().any(|weekday| is_titled(answer, weekday)) => 0.05,
                Mode::Exact => 0.0,
            },
            Sort::RecurringEventDay | Sort::CountDays | Sort::CountBusinessDays => {
                let (Some(given), Some(Int::Small(wanted))) = (int(answer), int(oracle)) else { return 0.0 };
                match (self.mode, given) {
                    (_, Int::Small(given)) if given == wanted => 1.0,
                    (Mode::Exact, Int::Small(given)) if wanted > 0 => {
                        let error = given.abs_diff(wanted) as f64 / wanted as f64;
                        (-5.0 * error).exp()
                    }
                    _ => 0.0,
                }
            }
        }
    }

    fn difficulty(&self) -> Value {
        let tasks: Vec<&str> = self.sorts.iter().map(|sort| sort.name()).collect();
        json!({ "tasks": tasks, "offset_upper_bound": self.offset_upper_bound })
    }

    fn bounds(&self) -> Bounds {
        // The longest template has 123 characters beside two dates of at most 29, its hint 61.
        Bounds { prompt: 256, answer: 9 }
    }

    fn compact_bounds(&self) -> Result<Bounds, &'static str> {
        if self.sorts.iter().any(|&sort| sort != Sort::IsLeapYear) {
            return Err("a compact prompt asks for leap years only: `tasks` must be [\"is_leap_year\"]");
        }
        Ok(Bounds { prompt: 3 + 5, answer: 3 })
    }

    /// `y:1984=`.
    fn compact_prompt(&self, item: &Item) -> Option<String> {
        match item.metadata.facts {
            Facts::Calendar(Event::IsLeapYear { year, .. }) => Some(format!("y:{year}=")),
            _ => None,
        }
    }
}

/// Whether `text.title()` is this weekday. The long s is the one other letter that becomes one of these.
fn is_titled(text: &str, weekday: &str) -> bool {
    let mut letters = text.chars();
    let first = letters.next().map(|letter| if letter == '\u{17f}' { 'S' } else { letter.to_ascii_uppercase() });
    first == weekday.chars().next() && letters.as_str().eq_ignore_ascii_case(&weekday[1..])
}
