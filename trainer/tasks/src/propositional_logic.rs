//! `propositional_logic`: a conclusion that follows from some premises.

mod formula;
mod parse;

use serde_json::{Value, json};

use crate::config::Fields;
use crate::item::{Facts, Item};
use crate::puzzle::{Bounds, Drawn, Kind, Puzzle};
use crate::python::text::strip;
use crate::random::PyRandom;
use crate::{Mode, TaskError};

use formula::{Formula, Op, Table};
use parse::parse;

pub(crate) const KIND: Kind = Kind {
    name: "propositional_logic",
    description: "infer a conclusion from premises of propositional logic",
    read: |fields, mode| Ok(Box::new(Logic::read(fields, mode)?)),
};

/// Variables are P, Q and so on to Z.
const MOST_VARIABLES: i64 = 11;

#[derive(Debug)]
struct Logic {
    vars: [i64; 2],
    statements: [i64; 2],
    complexity: [i64; 2],
    mode: Mode,
}

/// Premises and a conclusion that reasoning-gym found.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Argument {
    premises: Vec<Formula>,
    conclusion: Formula,
    variables: u8,
}

impl Argument {
    pub(crate) fn to_json(&self) -> Value {
        let variables: Vec<String> = (0..self.variables).map(|i| char::from(b'P' + i).into()).collect();
        json!({
            "premises": self.premises.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "variables": variables,
            "complexity": self.conclusion.ops().len(),
            "example_answer": self.conclusion.to_string(),
        })
    }
}

impl Logic {
    fn read(fields: &mut Fields, mode: Mode) -> Result<Self, TaskError> {
        Ok(Self {
            vars: fields.span(["min_vars", "max_vars"], [2, 4], 1..=MOST_VARIABLES)?,
            statements: fields.span(["min_statements", "max_statements"], [2, 4], 1..=16)?,
            complexity: fields.span(["min_complexity", "max_complexity"], [1, 3], 1..=8)?,
            mode,
        })
    }

    /// A conclusion of one connective that follows and is no tautology; in hardened mode one that does not follow from
    /// a single premise. reasoning-gym tries 100 and then takes the first variable, whether or not that follows.
    fn conclusion(&self, rng: &mut PyRandom, premises: &Premises, variables: u8) -> Option<Formula> {
        let found = (0..100).find_map(|_| {
            let candidate = Formula::draw(rng, variables, 2).without_implication();
            let table = Table::of(&candidate, variables);
            let follows = premises.all.implies(&table) && !table.is_always_true();
            let is_kept = follows && (self.mode == Mode::Exact || !premises.one_implies(&table));
            is_kept.then_some(candidate)
        });
        match self.mode {
            Mode::Exact => Some(found.unwrap_or_else(|| Formula::variable(0))),
            Mode::Hardened => found,
        }
    }

    fn exact_score(argument: &Argument, answer: &str) -> f64 {
        let is_known = |letter: u8| (b'P'..b'P' + argument.variables).contains(&letter);
        if answer.bytes().any(|byte| byte.is_ascii_uppercase() && !is_known(byte)) {
            return 0.0;
        }
        let Some((conclusion, variables)) = parse(answer, argument.variables) else { return 0.0 };
        let Some(follows) = formula::follows(&argument.premises, &conclusion, variables) else { return 0.0 };
        let is_variable = matches!(conclusion.ops(), [Op::Variable(_)]);
        match follows {
            _ if !follows.from_all => 0.05,
            _ if is_variable || follows.always => 0.25,
            _ => 1.0,
        }
    }

    fn hardened_score(argument: &Argument, answer: &str) -> f64 {
        let Some((conclusion, variables)) = parse(answer, argument.variables) else { return 0.0 };
        let is_long = conclusion.ops().iter().filter(|op| matches!(op, Op::Variable(_))).count() > 2;
        if variables > argument.variables || is_long {
            return 0.0;
        }
        let premises = Premises::of(&argument.premises, variables);
        let table = Table::of(&conclusion, variables);
        f64::from(premises.all.implies(&table) && !table.is_always_true() && !premises.one_implies(&table))
    }
}

impl Puzzle for Logic {
    fn draw(&self, rng: &mut PyRandom) -> Option<Drawn> {
        let variables = rng.randint(self.vars[0], self.vars[1]) as u8;
        let mut premises: Vec<Formula> = (0..rng.randint(self.statements[0], self.statements[1]))
            .map(|_| {
                let depth = rng.randint(self.complexity[0], self.complexity[1]);
                Formula::draw(rng, variables, depth)
            })
            .collect();
        if self.mode == Mode::Hardened {
            // Bare variables are common among premises and negations are not: "P and Q" would often be right.
            let negated: Vec<bool> = (0..variables).map(|_| rng.coin()).collect();
            premises.iter_mut().for_each(|premise| *premise = premise.with_negated(&negated));
        }
        let tables = Premises::of(&premises, variables);
        if self.mode == Mode::Hardened && tables.all.is_never_true() {
            return None;
        }
        let conclusion = self.conclusion(rng, &tables, variables)?;
        let mut question = String::with_capacity(HEAD.len() + 96 * premises.len() + 128);
        question.push_str(HEAD);
        for (i, premise) in premises.iter().enumerate() {
            question.push_str(&(i + 1).to_string());
            question.push_str(". ");
            premise.push(&mut question);
            question.push_str("\n.");
        }
        question.push_str("What can we conclude from the above statements?");
        let answer = (self.mode == Mode::Hardened).then(|| conclusion.to_string());
        if self.mode == Mode::Hardened {
            question.push_str(HARDENED);
        }
        let argument = Argument { premises, conclusion, variables };
        Some(Drawn { question, answer, facts: Facts::Logic(Box::new(argument)) })
    }

    /// reasoning-gym pays 1 for what follows, .25 if it is a bare variable or a tautology, .05 for what does not follow
    /// but can be parsed, which nearly all text can: any text without connectives is a variable.
    fn score(&self, item: &Item, answer: &str) -> f64 {
        let Facts::Logic(argument) = &item.metadata.facts else { return 0.0 };
        match self.mode {
            Mode::Exact => Self::exact_score(argument, answer),
            Mode::Hardened => Self::hardened_score(argument, strip(answer)),
        }
    }

    fn difficulty(&self) -> Value {
        json!({ "vars": self.vars, "statements": self.statements, "complexity": self.complexity })
    }

    fn bounds(&self) -> Bounds {
        // A variable may be negated, and a connective adds seven bytes to its two sides.
        let premise = (1..self.complexity[1]).fold(3, |len, _| 2 * len + 7);
        let statements = self.statements[1] as usize;
        Bounds { prompt: HEAD.len() + statements * (premise + 6) + 47 + HARDENED.len(), answer: 11 }
    }

    fn oracle(&self, item: &Item) -> Option<String> {
        match &item.metadata.facts {
            Facts::Logic(argument) => Some(argument.conclusion.to_string()),
            _ => None,
        }
    }
}

/// Truth tables of the premises.
struct Premises {
    each: Vec<Table>,
    all: Table,
}

impl Premises {
    fn of(premises: &[Formula], variables: u8) -> Self {
        let each: Vec<Table> = premises.iter().map(|premise| Table::of(premise, variables)).collect();
        let all = Table::conjunction(&each, variables);
        Self { each, all }
    }

    fn one_implies(&self, conclusion: &Table) -> bool {
        self.each.iter().any(|premise| premise.implies(conclusion))
    }
}

const HEAD: &str = "The following question is a propositional logic reasoning question.

In the question we provide a list of premises. The task is to infer a correct conclusion from the premise.

FORMAT INSTRUCTIONS:
- Return the conclusion logic statement, as your final answer.
- Use the following notation to denote symbols
    - OR = \u{2228}
    - AND = \u{2227}
    - IMPLIES = \u{2192}
    - IFF = \u{2194}
    - NOT = \u{ac}

Here is the question:
Given:
";

const HARDENED: &str =
    " The conclusion must not follow from one of them alone, and variables may occur in it at most twice in all.";

#[cfg(test)]
mod tests;
