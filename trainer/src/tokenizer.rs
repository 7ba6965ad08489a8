//! The byte tokenizer: a token is a byte, or one of two marks.
//!
//! Text of any language and any damage round-trips, and peers with different models agree on what a
//! completion is: its bytes.

/// Put before every prompt.
pub const BOS: u32 = 256;
/// Ends a completion that the model ended itself.
pub const EOS: u32 = 257;
/// Tokens that have a meaning. A model's vocabulary may be padded beyond.
pub const TOKENS: usize = 258;

/// `[BOS, bytes...]`.
pub fn encode_prompt(prompt: &[u8]) -> Vec<u32> {
    let mut tokens = Vec::with_capacity(prompt.len() + 1);
    tokens.push(BOS);
    tokens.extend(prompt.iter().copied().map(u32::from));
    tokens
}

/// `[bytes..., EOS]`, the end only where the completion was `stopped` by its author: a completion that
/// was cut off must not teach the model to end there.
pub fn encode_completion(bytes: &[u8], stopped: bool) -> Vec<u32> {
    let mut tokens: Vec<u32> = bytes.iter().copied().map(u32::from).collect();
    if stopped {
        tokens.push(EOS);
    }
    tokens
}

/// The byte that a token stands for; `None` for marks and padding.
pub fn byte(token: u32) -> Option<u8> {
    u8::try_from(token).ok()
}

/// Whether a token can follow in a completion: a byte or [`EOS`]. The logits of all others are minus
/// infinity, in generation as in training, so that both normalise over the same set.
pub fn can_follow(token: usize) -> bool {
    token < 256 || token == EOS as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_round_trip_and_marks_stand_where_they_should() {
        let all: Vec<u8> = (0..=255).collect();
        let prompt = encode_prompt(&all);
        assert_eq!(prompt[0], BOS);
        assert_eq!(prompt[1..].iter().filter_map(|&t| byte(t)).collect::<Vec<_>>(), all);
        assert_eq!(encode_completion(b"ab", true), [97, 98, EOS]);
        assert_eq!(encode_completion(b"ab", false), [97, 98]);
        assert_eq!(encode_completion(b"", true), [EOS]);
        assert_eq!(byte(BOS), None);
        assert_eq!((0..300).filter(|&t| can_follow(t)).count(), 257);
        assert!(!can_follow(BOS as usize));
    }
}
