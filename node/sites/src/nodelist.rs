//! How Slurm writes many in one: `n[01-03,7],gpu[1-2]x[0-3]` for names of nodes, `2(x2),1` for tasks on each.

use crate::MOST;

/// Why a text of Slurm's cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NodeListError {
    /// The text breaks its rules.
    #[error(
        "character {at}: found {found}, expected {expected}; Slurm writes such lists as `n[01-03,7],gpu1` and `2(x2),1`"
    )]
    Syntax {
        /// Where, in characters from 1.
        at: usize,
        /// What stands there.
        found: String,
        /// What might.
        expected: &'static str,
    },
    /// The text stands for more than a job can have.
    #[error("stands for more than {MOST} nodes; take a part of it")]
    TooMany,
    /// A name is longer than a host's name can be.
    #[error("character {at}: a name of more than 253 characters; no host is called so")]
    TooLong {
        /// Where the name begins, in characters from 1.
        at: usize,
    },
}

/// The names that `text` stands for, in Slurm's order: of several brackets in a name the last counts fastest, and numbers
/// are as wide as the first of their range.
///
/// # Errors
/// [`NodeListError`]: what stands where, or that these are more than [`MOST`].
pub fn names(text: &str) -> Result<Vec<String>, NodeListError> {
    let mut cursor = Cursor::new(text);
    let mut names = Vec::new();
    loop {
        let parts = name(&mut cursor, MOST - names.len())?;
        extend(&mut names, &parts);
        match cursor.next() {
            Some(',') => {}
            None => return Ok(names),
            Some(_) => return Err(cursor.back().unexpected("a comma or the end")),
        }
    }
}

/// How many tasks each node has, in the order of the nodes: `2(x2),1` is 2, 2, 1.
///
/// # Errors
/// [`NodeListError`]: what stands where, or that these are more than [`MOST`] nodes.
pub fn tasks_per_node(text: &str) -> Result<Vec<usize>, NodeListError> {
    let mut cursor = Cursor::new(text);
    let mut tasks = Vec::new();
    loop {
        let each = cursor.small("a number of tasks")?;
        let mut times = 1;
        if cursor.peek() == Some('(') {
            cursor.next();
            cursor.expect('x', "`x` and a number of nodes")?;
            times = cursor.small("a number of nodes")?;
            cursor.expect(')', "`)`")?;
        }
        if times > MOST - tasks.len() {
            return Err(NodeListError::TooMany);
        }
        tasks.extend(std::iter::repeat_n(each, times));
        match cursor.next() {
            Some(',') => {}
            None => return Ok(tasks),
            Some(_) => return Err(cursor.back().unexpected("a comma or the end")),
        }
    }
}

/// A stretch of a name: what it can be.
type Part = Vec<String>;

/// A host's name in DNS is not longer.
const LONGEST: usize = 253;

/// One name with its brackets, of which no more than `room` names may come.
fn name(cursor: &mut Cursor, room: usize) -> Result<Vec<Part>, NodeListError> {
    let begin = cursor.at + 1;
    let (mut parts, mut count, mut longest) = (Vec::new(), 1_usize, 0);
    loop {
        let part = match cursor.peek() {
            Some('[') => bracket(cursor, room)?,
            Some(character) if plain(character) => vec![cursor.take(plain)],
            _ if parts.is_empty() => return Err(cursor.unexpected("a name")),
            _ => break,
        };
        count = count.saturating_mul(part.len());
        longest += part.iter().map(String::len).max().unwrap_or(0);
        if count > room {
            return Err(NodeListError::TooMany);
        }
        if longest > LONGEST {
            return Err(NodeListError::TooLong { at: begin });
        }
        parts.push(part);
    }
    match room {
        0 => Err(NodeListError::TooMany),
        _ => Ok(parts),
    }
}

/// `[01-03,7]`.
fn bracket(cursor: &mut Cursor, room: usize) -> Result<Part, NodeListError> {
    cursor.expect('[', "`[`")?;
    let mut part = Vec::new();
    loop {
        let first = cursor.digits()?;
        let (from, mut to) = (cursor.value(&first)?, cursor.value(&first)?);
        if cursor.peek() == Some('-') {
            cursor.next();
            let last = cursor.digits()?;
            to = cursor.value(&last)?;
            if to < from {
                return Err(cursor.back().unexpected("a range that rises"));
            }
        }
        if to - from >= (room - part.len().min(room)) as u64 {
            return Err(NodeListError::TooMany);
        }
        part.extend((from..=to).map(|number| format!("{number:0width$}", width = first.len())));
        match cursor.next() {
            Some(',') => {}
            Some(']') => return Ok(part),
            Some(_) => return Err(cursor.back().unexpected("`,`, `-` or `]`")),
            None => return Err(cursor.unexpected("`]`")),
        }
    }
}

fn plain(character: char) -> bool {
    character.is_ascii_alphanumeric() || "-._".contains(character)
}

/// All that `parts` can be put together to.
fn extend(names: &mut Vec<String>, parts: &[Part]) {
    let mut heads = vec![String::new()];
    for part in parts {
        heads = heads.iter().flat_map(|head| part.iter().map(move |tail| format!("{head}{tail}"))).collect();
    }
    names.append(&mut heads);
}

/// Where reading stands.
struct Cursor {
    text: Vec<char>,
    at: usize,
}

impl Cursor {
    fn new(text: &str) -> Cursor {
        Cursor { text: text.trim().chars().collect(), at: 0 }
    }

    fn peek(&self) -> Option<char> {
        self.text.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek();
        self.at += usize::from(next.is_some());
        next
    }

    fn back(&mut self) -> &mut Cursor {
        self.at = self.at.saturating_sub(1);
        self
    }

    fn take(&mut self, of: impl Fn(char) -> bool) -> String {
        let taken: String = self.text[self.at..].iter().take_while(|character| of(**character)).collect();
        self.at += taken.chars().count();
        taken
    }

    fn expect(&mut self, what: char, expected: &'static str) -> Result<(), NodeListError> {
        if self.peek() != Some(what) {
            return Err(self.unexpected(expected));
        }
        self.at += 1;
        Ok(())
    }

    fn digits(&mut self) -> Result<String, NodeListError> {
        match self.take(|character| character.is_ascii_digit()) {
            digits if digits.is_empty() => Err(self.unexpected("a number")),
            digits => Ok(digits),
        }
    }

    fn value(&self, digits: &str) -> Result<u64, NodeListError> {
        // Eighteen digits fit; Slurm's numbers have fewer.
        match digits.len() <= 18 {
            true => digits.parse().map_err(|_| self.unexpected("a number")),
            false => Err(NodeListError::TooLong { at: self.at + 1 - digits.len() }),
        }
    }

    /// A number from 1 to [`MOST`].
    fn small(&mut self, expected: &'static str) -> Result<usize, NodeListError> {
        let digits = self.digits().map_err(|_| self.unexpected(expected))?;
        match digits.parse() {
            Ok(number @ 1..=MOST) => Ok(number),
            Ok(0) => Err(self.back().unexpected(expected)),
            _ => Err(NodeListError::TooMany),
        }
    }

    fn unexpected(&self, expected: &'static str) -> NodeListError {
        let found = self.peek().map_or("the end".to_owned(), |character| format!("{character:?}"));
        NodeListError::Syntax { at: self.at + 1, found, expected }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_in_slurms_order() {
        for (text, told) in [
            ("n0", "n0"),
            ("n[0-1]", "n0 n1"),
            ("n[01-03,7],gpu[1-2]x[0-1]", "n01 n02 n03 n7 gpu1x0 gpu1x1 gpu2x0 gpu2x1"),
            ("a,b-2,c.example", "a b-2 c.example"),
            ("n[08-10]", "n08 n09 n10"),
            ("n[8-10]-ib", "n8-ib n9-ib n10-ib"),
            ("r[1-2]n[001,3-4]", "r1n001 r1n3 r1n4 r2n001 r2n3 r2n4"),
            ("[0-1]", "0 1"),
            (" n1\n", "n1"),
            ("n[5-5]", "n5"),
        ] {
            assert_eq!(names(text).expect(text).join(" "), told, "{text}");
        }
    }

    #[test]
    fn what_is_no_list_is_located() {
        for (text, told) in [
            ("", "character 1: found the end, expected a name;"),
            ("a,", "character 3: found the end, expected a name;"),
            ("a,,b", "character 3: found ',', expected a name;"),
            ("n[", "character 3: found the end, expected a number;"),
            ("n[1", "character 4: found the end, expected `]`;"),
            ("n[1-", "character 5: found the end, expected a number;"),
            ("n[3-1]", "character 5: found '1', expected a range that rises;"),
            ("n[1;2]", "character 4: found ';', expected `,`, `-` or `]`;"),
            ("n[a]", "character 3: found 'a', expected a number;"),
            ("n[[1]]", "character 3: found '[', expected a number;"),
            ("n]", "character 2: found ']', expected a comma or the end;"),
            ("n 1", "character 2: found ' ', expected a comma or the end;"),
            ("é", "character 1: found 'é', expected a name;"),
        ] {
            let error = names(text).expect_err(text).to_string();
            assert!(error.starts_with(told), "{text}: {error}");
        }
    }

    #[test]
    fn no_text_makes_more_names_than_a_job_has_nodes() {
        assert_eq!(names("n[1-65536]").map(|names| names.len()), Ok(MOST));
        assert_eq!(names("n[0-255]x[0-255]").map(|names| names.len()), Ok(MOST));
        for text in [
            "n[0-65536]",
            "n[0-255]x[0-256]",
            "n[1-65536],a",
            "n[1-999999999999999999]",
            "a[0-9]b[0-9]c[0-9]d[0-9]e[0-9]",
        ] {
            assert_eq!(names(text), Err(NodeListError::TooMany), "{text}");
        }
        assert_eq!(names("n[9999999999999999999]"), Err(NodeListError::TooLong { at: 3 }));
        assert_eq!(names(&format!("a,{}", "n".repeat(254))), Err(NodeListError::TooLong { at: 3 }));
        assert_eq!(names(&"n".repeat(253)).map(|names| names.len()), Ok(1));
    }

    #[test]
    fn tasks_of_each_node() {
        assert_eq!(tasks_per_node("2(x2),1"), Ok(vec![2, 2, 1]));
        assert_eq!(tasks_per_node("4"), Ok(vec![4]));
        assert_eq!(tasks_per_node("8(x3)"), Ok(vec![8, 8, 8]));
        assert_eq!(tasks_per_node("1(x65536)").map(|tasks| tasks.len()), Ok(MOST));
        assert_eq!(tasks_per_node("1(x65536),1"), Err(NodeListError::TooMany));
        assert_eq!(tasks_per_node("99999999999999999999"), Err(NodeListError::TooMany));
        for (text, told) in [
            ("", "character 1: found the end, expected a number of tasks;"),
            ("2(x2", "character 5: found the end, expected `)`;"),
            ("2(2)", "character 3: found '2', expected `x` and a number of nodes;"),
            ("2(x0)", "character 4: found '0', expected a number of nodes;"),
            ("0", "character 1: found '0', expected a number of tasks;"),
            ("2 1", "character 2: found ' ', expected a comma or the end;"),
            ("-1", "character 1: found '-', expected a number of tasks;"),
        ] {
            let error = tasks_per_node(text).expect_err(text).to_string();
            assert!(error.starts_with(told), "{text}: {error}");
        }
    }
}
