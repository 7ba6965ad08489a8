//! Rows of a matrix that were written as a Python list.
//!
//! reasoning-gym evaluates the answer as Python code and joins what comes out, `" ".join(str(x) for x in row)`. Nothing
//! is evaluated here. What is read: lists and tuples, integers and strings without escapes, in any nesting that joins
//! to rows of integers. Text that only running it would turn into rows (`range(3)`, `[0] * 3`) is not.

/// The rows that the text joins to, or `None` if it is no such literal. Longer rows than `most` bytes are none either.
pub(crate) fn joined_rows(text: &str, most: usize) -> Option<String> {
    let mut reader = Reader { text: text.as_bytes(), at: 0, depth: 0 };
    let value = reader.outermost()?;
    let rows = match value {
        Value::List(rows) => rows.iter().map(Value::joined).collect::<Option<Vec<String>>>()?,
        // The characters of a string are its rows, each a string of one character.
        Value::Text(text) => text.chars().map(String::from).collect(),
        Value::Int(_) => return None,
    };
    let joined = rows.join("\n");
    (joined.len() <= most).then_some(joined)
}

/// Deeper text is not read; rows of cells are two deep, and brackets around anything may add some.
const MAX_DEPTH: usize = 64;

enum Value {
    List(Vec<Value>),
    Text(String),
    Int(String),
}

impl Value {
    /// A row: the `str` of each of its elements, with a space between.
    fn joined(&self) -> Option<String> {
        match self {
            Self::List(cells) => {
                let cells: Option<Vec<&str>> = cells.iter().map(Value::text).collect();
                Some(cells?.join(" "))
            }
            Self::Text(text) => {
                let cells: Vec<String> = text.chars().map(String::from).collect();
                Some(cells.join(" "))
            }
            Self::Int(_) => None,
        }
    }

    /// `str` of a cell. A list's begins with a bracket, which no row of integers has.
    fn text(&self) -> Option<&str> {
        match self {
            Self::List(_) => None,
            Self::Text(text) | Self::Int(text) => Some(text),
        }
    }
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    depth: usize,
}

impl Reader<'_> {
    /// An expression, or several with commas between, which make a tuple.
    fn outermost(&mut self) -> Option<Value> {
        self.skip_space();
        // Blank lines may come first, but then the expression must not be indented.
        while let Some(b'\n' | b'\r') = self.text.get(self.at) {
            let line = self.at + 1;
            self.at = line;
            self.skip_space();
            if self.at > line && !matches!(self.text.get(self.at), Some(b'\n' | b'\r')) {
                return None;
            }
        }
        let first = self.value()?;
        let value = if self.eat(b',') {
            let mut values = vec![first];
            while self.peek().is_some() {
                values.push(self.value()?);
                if !self.eat(b',') {
                    break;
                }
            }
            Value::List(values)
        } else {
            first
        };
        // Line ends and comments may follow, no more.
        loop {
            self.skip_space();
            match self.text.get(self.at) {
                None => return Some(value),
                Some(b'\n' | b'\r') => self.at += 1,
                Some(_) => return None,
            }
        }
    }

    fn value(&mut self) -> Option<Value> {
        match self.peek()? {
            b'[' => {
                self.at += 1;
                self.elements(b']').map(|(values, _)| Value::List(values))
            }
            b'(' => {
                self.at += 1;
                let (mut values, commas) = self.elements(b')')?;
                // Brackets around one value, without a comma, are only brackets.
                if values.len() == 1 && !commas { values.pop() } else { Some(Value::List(values)) }
            }
            quote @ (b'\'' | b'"') => {
                let mut text = String::new();
                // Adjacent strings are one.
                while self.peek() == Some(quote) {
                    text.push_str(self.string(quote)?);
                }
                Some(Value::Text(text))
            }
            _ => self.int().map(Value::Int),
        }
    }

    /// What stands in brackets up to `close`, and whether there was a comma.
    fn elements(&mut self, close: u8) -> Option<(Vec<Value>, bool)> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let (mut values, mut commas) = (Vec::new(), false);
        while !self.eat(close) {
            values.push(self.value()?);
            if self.eat(b',') {
                commas = true;
            } else {
                if !self.eat(close) {
                    return None;
                }
                break;
            }
        }
        self.depth -= 1;
        Some((values, commas))
    }

    fn string(&mut self, quote: u8) -> Option<&str> {
        let start = self.at + 1;
        let len = self.text[start..].iter().position(|&byte| byte == quote || byte == b'\\' || byte == b'\n')?;
        self.at = start + len + 1;
        // An empty string before another quote opens a long string, which no answer needs.
        let is_long = len == 0 && self.text.get(self.at) == Some(&quote);
        if self.text[start + len] != quote || is_long {
            return None;
        }
        std::str::from_utf8(&self.text[start..start + len]).ok()
    }

    /// A decimal integer as `str` prints it.
    fn int(&mut self) -> Option<String> {
        let mut negative = false;
        while let Some(sign @ (b'-' | b'+')) = self.peek() {
            self.at += 1;
            negative ^= sign == b'-';
        }
        let start = self.at;
        let mut digits = String::new();
        while let Some(&byte) = self.text.get(self.at) {
            match byte {
                b'0'..=b'9' => digits.push(char::from(byte)),
                b'_' if self.at > start && self.text[self.at - 1] != b'_' => {}
                _ => break,
            }
            self.at += 1;
        }
        if digits.is_empty() || self.text[self.at - 1] == b'_' {
            return None;
        }
        // What follows directly would make it another literal, or a name.
        if self.text.get(self.at).is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'.' || !byte.is_ascii()) {
            return None;
        }
        let is_zero = digits.bytes().all(|byte| byte == b'0');
        if is_zero {
            return Some("0".into());
        }
        // Python takes no leading zeros but in zero.
        (!digits.starts_with('0')).then(|| if negative { format!("-{digits}") } else { digits })
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// The next byte after white space.
    fn peek(&mut self) -> Option<u8> {
        self.skip_space();
        self.text.get(self.at).copied()
    }

    /// Blanks and comments; line ends too inside brackets.
    fn skip_space(&mut self) {
        while let Some(&byte) = self.text.get(self.at) {
            match byte {
                b' ' | b'\t' | b'\x0c' => self.at += 1,
                b'\n' | b'\r' if self.depth > 0 => self.at += 1,
                b'#' => {
                    let rest = &self.text[self.at..];
                    self.at += rest.iter().position(|&byte| byte == b'\n' || byte == b'\r').unwrap_or(rest.len());
                }
                _ => break,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_join_to_rows() {
        let good = [
            ("[[1, 0], [0, 12]]", "1 0\n0 12"),
            ("((1,0),(0,1),)", "1 0\n0 1"),
            ("[1, 0], [0, 1]", "1 0\n0 1"),
            ("['10', \"01\"]", "1 0\n0 1"),
            ("[['1', 0], (0, '1')]", "1 0\n0 1"),
            ("[\n [1, 0], # one\n [0, 1]\n]\n", "1 0\n0 1"),
            ("  [[+1, -0], [00, - -1]]", "1 0\n0 1"),
            ("([([1, 0]), [0, 1]])", "1 0\n0 1"),
            ("[['1' '2', 1_0]]", "12 10"),
            ("'0'", "0"),
            ("[[]]", ""),
            ("\n # rows\n\n[[1]]", "1"),
        ];
        for (text, rows) in good {
            assert_eq!(joined_rows(text, 100).as_deref(), Some(rows), "{text}");
        }
        let bad = [
            "",
            "1 0\n0 1",
            "[1, 0]",
            "[[1 0]]",
            "[[1, 0], [0, 1]",
            "[[01]]",
            "[[1.0]]",
            "[[0x1]]",
            "[[True]]",
            "[,]",
            "[[1,,0]]",
            "[[1]]x",
            "[[1]]\n[[1]]",
            "f()",
            "[[__import__('os')]]",
            "[[1]] * 2",
            "[['\\x31']]",
            "['''1''']",
            "[[[1]]]",
            "[[1__0]]",
            "[[1_]]",
            "\n [[1]]",
            "[[1]] ; x",
        ];
        for text in bad {
            assert_eq!(joined_rows(text, 100), None, "{text}");
        }
        assert_eq!(joined_rows(&"[".repeat(1_000_000), 100), None);
        assert_eq!(joined_rows("[[1, 0], [0, 12]]", 5), None);
    }
}
