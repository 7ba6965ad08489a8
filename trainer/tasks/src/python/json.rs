//! `json.loads` of a flat list, each element through `float`.

use super::number::float;

/// The floats of a JSON list of numbers, strings, booleans; `None` where Python fails to read the text, or finds no
/// list, or an element that `float` does not take (null, a list, an object, an integer beyond all floats).
///
/// Python's reader takes `NaN`, `Infinity` and `-Infinity` too.
pub(crate) fn floats_of_list(text: &str) -> Option<Vec<f64>> {
    let mut reader = Reader { rest: text.trim_start_matches(is_json_space) };
    reader.eat("[")?;
    let mut floats = Vec::new();
    reader.skip_space();
    if reader.eat("]").is_none() {
        loop {
            reader.skip_space();
            floats.push(reader.element()?);
            reader.skip_space();
            if reader.eat(",").is_none() {
                reader.eat("]")?;
                break;
            }
        }
    }
    reader.skip_space();
    reader.rest.is_empty().then_some(floats)
}

/// `list.sort` leaves a list of floats alone exactly if no element is less than the one before: so does NaN, which is
/// less than nothing.
pub(crate) fn is_sorted(floats: &[f64], ascending: bool) -> bool {
    !floats.windows(2).any(|pair| if ascending { pair[1] < pair[0] } else { pair[0] < pair[1] })
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn eat(&mut self, token: &str) -> Option<()> {
        self.rest = self.rest.strip_prefix(token)?;
        Some(())
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start_matches(is_json_space);
    }

    fn element(&mut self) -> Option<f64> {
        const NAMES: [(&str, f64); 5] = [
            ("true", 1.0),
            ("false", 0.0),
            ("NaN", f64::NAN),
            ("Infinity", f64::INFINITY),
            ("-Infinity", f64::NEG_INFINITY),
        ];
        if self.eat("\"").is_some() {
            return float(&self.string()?);
        }
        if let Some((name, value)) = NAMES.iter().find(|(name, _)| self.rest.starts_with(name)) {
            self.eat(name)?;
            return Some(*value);
        }
        self.number()
    }

    /// `-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?`, as much of it as there is.
    fn number(&mut self) -> Option<f64> {
        let bytes = self.rest.as_bytes();
        let digits = |from: usize| bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let mut end = usize::from(bytes.first() == Some(&b'-'));
        let whole = if bytes.get(end) == Some(&b'0') { 1 } else { digits(end) };
        if whole == 0 {
            return None;
        }
        end += whole;
        let mut is_int = true;
        if bytes.get(end) == Some(&b'.') && digits(end + 1) > 0 {
            end += 1 + digits(end + 1);
            is_int = false;
        }
        if matches!(bytes.get(end), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
            if digits(end + 1 + sign) > 0 {
                end += 1 + sign + digits(end + 1 + sign);
                is_int = false;
            }
        }
        let value: f64 = self.rest[..end].parse().ok()?;
        self.rest = &self.rest[end..];
        // An integer is exact first: too long to be read, or beyond all floats, it is an error.
        (!is_int || (value.is_finite() && whole <= 4300)).then_some(value)
    }

    /// The rest of a string whose opening quote has been read.
    fn string(&mut self) -> Option<String> {
        let mut text = String::new();
        loop {
            let plain = self.rest.find(|c: char| c == '"' || c == '\\' || c < ' ')?;
            text.push_str(&self.rest[..plain]);
            self.rest = &self.rest[plain..];
            if self.eat("\"").is_some() {
                return Some(text);
            }
            self.eat("\\")?;
            text.push(self.escape()?);
        }
    }

    fn escape(&mut self) -> Option<char> {
        let kind = self.rest.chars().next()?;
        self.rest = &self.rest[kind.len_utf8()..];
        Some(match kind {
            '"' | '\\' | '/' => kind,
            'b' => '\x08',
            'f' => '\x0c',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let first = self.hex()?;
                let before = self.rest;
                let second = (0xd800..0xdc00).contains(&first).then(|| self.eat("\\u").and_then(|()| self.hex()));
                match second.flatten() {
                    Some(second @ 0xdc00..0xe000) => {
                        char::from_u32(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00))?
                    }
                    _ => {
                        self.rest = before;
                        // Half of a pair is a character in Python, but in no number.
                        char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER)
                    }
                }
            }
            _ => return None,
        })
    }

    fn hex(&mut self) -> Option<u32> {
        let digits = self.rest.get(..4).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        self.rest = &self.rest[4..];
        u32::from_str_radix(digits, 16).ok()
    }
}

fn is_json_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_python_reads_them() {
        let good: [(&str, &[f64]); 7] = [
            (" [ ] ", &[]),
            ("[1, -2.5e1,\n\"3\", \" 4_0 \"]", &[1.0, -25.0, 3.0, 40.0]),
            ("[true, false]", &[1.0, 0.0]),
            ("[Infinity, -Infinity, 1e999]", &[f64::INFINITY, f64::NEG_INFINITY, f64::INFINITY]),
            (r#"["\u0031\u0032"]"#, &[12.0]),
            (r#"["\ud835\udfd7"]"#, &[9.0]),
            (r#"["\t5\n"]"#, &[5.0]),
        ];
        for (text, floats) in good {
            assert_eq!(floats_of_list(text).as_deref(), Some(floats), "{text}");
        }
        let bad = [
            "",
            "[",
            "[1",
            "[1,]",
            "[,1]",
            "[01]",
            "[1.]",
            "[.5]",
            "[+1]",
            "[1] 2",
            "[null]",
            "[[1]]",
            "{}",
            "1",
            "[\"1]",
            "[\"a\"]",
            "[\"1\n\"]",
            r#"["\x31"]"#,
            r#"["\u003"]"#,
            r#"["\ud835"]"#,
            "[-]",
            "[1e]",
            "[1 2]",
            "[nan]",
            "[\"\"]",
        ];
        for text in bad {
            assert_eq!(floats_of_list(text), None, "{text}");
        }
        assert_eq!(floats_of_list(&format!("[{}]", "9".repeat(400))), None);
        assert!(floats_of_list("[NaN]").is_some_and(|floats| floats[0].is_nan()));
    }
}
