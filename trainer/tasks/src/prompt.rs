//! How a question is put to a policy, and where the answer is in what it says.

use std::borrow::Cow;

use crate::python::text::strip;

/// What a policy reads and where its answer is: the configuration field `prompt`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// The question and a line end; the whole completion is the answer.
    Question,
    /// A few characters, for small policies; the whole completion is the answer, in a short form of its own.
    Compact,
    /// reasoning-gym's default system prompt and the question; the answer is in `<answer>` tags.
    Tagged,
}

impl Style {
    /// The names in the order of [`ALL`](Self::ALL).
    pub(crate) const NAMES: [&'static str; 3] = ["question", "compact", "tagged"];
    pub(crate) const ALL: [Self; 3] = [Self::Question, Self::Compact, Self::Tagged];
}

/// reasoning-gym's `SYSTEM_PROMPTS["default"]`.
pub(crate) const SYSTEM: &str = "\
Given a problem, your task is to answer the question by thinking step-by-step in a clear and specific manner.
Once you have thought about the reasoning process, provide the answer in the following format:
<answer>answer here</answer>
Do not explain your reasoning inside the answer tags, provide only the final answer. When an example is provided, you \
should strictly follow the format of the output/answer in that example.
";

pub(crate) const OPEN: &str = "<answer>";
pub(crate) const CLOSE: &str = "</answer>";

/// The answer in a completion: what stands in the last pair of tags where tags are asked for, else all of it, both
/// without white space around them.
///
/// Tags are found as by reasoning-gym's `extract_answer`, which is genrl's too: each opening tag from the left is
/// paired with the nearest closing tag, and what lies between is not searched again.
pub(crate) fn answer_in(style: Style, completion: &str) -> Option<&str> {
    if style != Style::Tagged {
        return Some(strip(completion));
    }
    let mut rest = completion;
    let mut last = None;
    while let Some(open) = rest.find(OPEN) {
        let inside = &rest[open + OPEN.len()..];
        let Some(close) = inside.find(CLOSE) else { break };
        last = Some(&inside[..close]);
        rest = &inside[close + CLOSE.len()..];
    }
    last.map(strip)
}

/// Splits a compact answer into lines of digits and puts spaces between the digits, as `binary_matrix` wants it.
/// Anything but digits and line ends stays as it is.
pub(crate) fn spaced_digits(answer: &str) -> Cow<'_, str> {
    if answer.is_empty() || !answer.bytes().all(|byte| byte.is_ascii_digit() || byte == b'\n') {
        return Cow::Borrowed(answer);
    }
    let mut spaced = String::with_capacity(2 * answer.len());
    let mut in_row = false;
    for digit in answer.chars() {
        if in_row && digit != '\n' {
            spaced.push(' ');
        }
        spaced.push(digit);
        in_row = digit != '\n';
    }
    Cow::Owned(spaced)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_pair_of_tags_counts() {
        let tagged = |text| answer_in(Style::Tagged, text);
        assert_eq!(tagged("<answer>1</answer> no, <answer>\n 2 </answer>."), Some("2"));
        assert_eq!(tagged("<answer>1<answer>2</answer>"), Some("1<answer>2"));
        assert_eq!(tagged("<answer>1</answer><answer>2"), Some("1"));
        assert_eq!(tagged("<answer></answer>"), Some(""));
        assert_eq!(tagged("</answer><answer>"), None);
        assert_eq!(tagged("42"), None);
        assert_eq!(answer_in(Style::Question, " 42\n"), Some("42"));
    }

    #[test]
    fn digits_are_spaced() {
        assert_eq!(spaced_digits("010\n121"), "0 1 0\n1 2 1");
        assert_eq!(spaced_digits("0 1 0\n1 2 1"), "0 1 0\n1 2 1");
        assert_eq!(spaced_digits("01x"), "01x");
    }
}
