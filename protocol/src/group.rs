//! The rollout group: one question's completions, signed by the peer whose policy wrote them.
//!
//! A group holds neither question nor answer nor rewards. `task`, `seed` and `index` say which question it
//! was, and the seed itself follows from run, author and counter, so there is nothing to lie about but the
//! completions.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::codec::{self, Bytes, CodecError, List, Text};
use crate::id::{GroupId, PeerKey, RunId, SIGNATURE_BYTES, Signer, hash};
use crate::run::{MAX_COMPLETIONS, MAX_INDICES, RunSpec, question_seed};

/// Longest signed group of any run.
pub const MAX_GROUP_BYTES: usize = 512 << 10;
/// Bytes in a model's tag.
pub const MAX_MODEL_BYTES: usize = 64;

/// What groups are signed as.
pub(crate) const DOMAIN: &str = "group";

/// One question's completions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// The run.
    pub run: RunId,
    /// Whose policy wrote the completions.
    pub author: PeerKey,
    /// The author's count of questions; never used twice.
    pub counter: u64,
    /// Place of the task in [`RunSpec::tasks`].
    pub task: u16,
    /// That task's [`config_hash`](crate::run::TaskSpec::config_hash).
    pub config_hash: [u8; 32],
    /// [`question_seed`] of run, author and counter.
    pub seed: u64,
    /// The first index of the seed whose question is not held out; below [`MAX_INDICES`].
    pub index: u64,
    /// Updates behind the policy that wrote the completions.
    pub policy_version: u64,
    /// What the author calls its model; for people.
    #[serde(with = "Text")]
    pub model: String,
    /// When, by the author's clock; for people.
    pub created_ms: u64,
    /// In the order in which they were drawn, never sorted: [`crate::copies`] relies on it.
    #[serde(with = "List::<MAX_COMPLETIONS>")]
    pub completions: Vec<Completion>,
}

/// One completion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    /// What was written, without the end token. Need not be UTF-8.
    #[serde(with = "Bytes")]
    pub text: Vec<u8>,
    /// How it ended.
    pub finish: Finish,
    /// Natural logarithm of its probability under the policy that wrote it.
    pub logprob: Option<f32>,
    /// Tokens of the author's tokenizer.
    pub tokens: Option<u32>,
}

/// How a completion ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Finish {
    /// By the end token.
    Stop,
    /// By the length limit.
    Length,
}

/// A group as its author signed it: the canonical encoding of the [`Group`], then the signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedGroup {
    bytes: Arc<[u8]>,
    id: GroupId,
    author: PeerKey,
    counter: u64,
    task: u16,
    policy_version: u64,
}

/// Why bytes are not a group of this run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// The bytes hold no group.
    #[error("not a group: {0}")]
    Codec(#[from] CodecError),
    /// It belongs to another run.
    #[error("group of the run {0}")]
    Run(RunId),
    /// Its author did not sign it.
    #[error("the signature is not its author's")]
    Signature,
    /// The author signed something that breaks the run's rules.
    #[error("{field}: {found}")]
    Rules {
        /// Which part.
        field: &'static str,
        /// What is wrong with it.
        found: String,
    },
}

impl GroupError {
    /// Whether the author is to blame, who signed it, and not whoever passed it on.
    pub fn blames_author(&self) -> bool {
        matches!(self, Self::Rules { .. })
    }
}

impl SignedGroup {
    /// Signs a group. `group.author` must be the signer's own key, or nobody will accept it.
    pub fn sign(group: &Group, signer: &Signer) -> Self {
        let mut bytes = codec::encode(group);
        let id = GroupId(hash(DOMAIN, &[&bytes]));
        let signature = signer.sign(DOMAIN, &bytes);
        bytes.extend(signature);
        Self::with(bytes.into(), id, group)
    }

    fn with(bytes: Arc<[u8]>, id: GroupId, group: &Group) -> Self {
        let Group { author, counter, task, policy_version, .. } = *group;
        Self { bytes, id, author, counter, task, policy_version }
    }

    /// Opens what [`encode`](Self::encode) gave, checking everything that needs no task machinery.
    ///
    /// # Errors
    /// In this order: size, structure, run, signature, and then the author's own mistakes.
    pub fn open(bytes: &[u8], spec: &RunSpec) -> Result<(Self, Group), GroupError> {
        Self::open_in(bytes, spec, &spec.id())
    }

    /// [`open`](Self::open) for whoever has the run's id at hand.
    pub(crate) fn open_in(bytes: &[u8], spec: &RunSpec, run: &RunId) -> Result<(Self, Group), GroupError> {
        let (id, content, signature) = split(bytes, spec)?;
        let group: Group = codec::decode(content, MAX_GROUP_BYTES)?;
        if group.run != *run {
            return Err(GroupError::Run(group.run));
        }
        if !group.author.verify(DOMAIN, content, signature) {
            return Err(GroupError::Signature);
        }
        check(&group, spec)?;
        Ok((Self::with(bytes.into(), id, &group), group))
    }

    /// The name of the group in `bytes`, whatever they hold.
    pub(crate) fn id_of(bytes: &[u8], spec: &RunSpec) -> Option<GroupId> {
        split(bytes, spec).ok().map(|(id, _, _)| id)
    }

    /// What travels.
    pub fn encode(&self) -> Vec<u8> {
        self.bytes.to_vec()
    }

    /// What travels, shared.
    pub fn bytes(&self) -> &Arc<[u8]> {
        &self.bytes
    }

    /// The hash of what was signed; the signature is no part of it.
    pub fn id(&self) -> GroupId {
        self.id
    }

    /// Whose group it is.
    pub fn author(&self) -> PeerKey {
        self.author
    }

    /// The author's counter.
    pub fn counter(&self) -> u64 {
        self.counter
    }

    /// Place of the task in [`RunSpec::tasks`].
    pub fn task(&self) -> u16 {
        self.task
    }

    /// The author's policy.
    pub fn policy_version(&self) -> u64 {
        self.policy_version
    }
}

/// Id, content and signature.
fn split<'a>(bytes: &'a [u8], spec: &RunSpec) -> Result<(GroupId, &'a [u8], &'a [u8]), CodecError> {
    let limit = spec.limits.max_group_bytes().min(MAX_GROUP_BYTES);
    if bytes.len() > limit {
        return Err(CodecError::TooLarge { bytes: bytes.len(), limit });
    }
    let at = bytes.len().checked_sub(SIGNATURE_BYTES).ok_or(CodecError::Short)?;
    let (content, signature) = bytes.split_at(at);
    Ok((GroupId(hash(DOMAIN, &[content])), content, signature))
}

fn check(group: &Group, spec: &RunSpec) -> Result<(), GroupError> {
    let wrong = |field, found: String| Err(GroupError::Rules { field, found });
    let Some(task) = spec.tasks.get(usize::from(group.task)) else {
        return wrong("task", format!("{}, of {}", group.task, spec.tasks.len()));
    };
    if group.config_hash != task.config_hash {
        return wrong("config_hash", format!("not that of {:?}", task.label));
    }
    if group.seed != question_seed(&group.run, &group.author, group.counter) {
        return wrong("seed", format!("not that of question {}", group.counter));
    }
    if group.index >= MAX_INDICES {
        return wrong("index", format!("{}, of at most {}", group.index, MAX_INDICES - 1));
    }
    if group.model.len() > MAX_MODEL_BYTES || group.model.chars().any(char::is_control) {
        return wrong("model", "too long, or with control characters".into());
    }
    if group.completions.is_empty() || group.completions.len() > spec.limits.max_completions as usize {
        return wrong(
            "completions",
            format!("{}, of at most {}", group.completions.len(), spec.limits.max_completions),
        );
    }
    for completion in &group.completions {
        if completion.text.len() > spec.limits.max_completion_bytes as usize {
            return wrong("completion", format!("{} bytes", completion.text.len()));
        }
        if completion.logprob.is_some_and(|logprob| !logprob.is_finite()) {
            return wrong("logprob", "not finite".into());
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::run::tests::spec;

    /// A valid group of [`spec`] with these completions.
    pub(crate) fn group(author: &Signer, counter: u64, texts: &[&str]) -> Group {
        let (spec, run) = (spec(), spec().id());
        let completion = |text: &&str| Completion {
            text: text.as_bytes().to_vec(),
            finish: Finish::Stop,
            logprob: Some(-1.5),
            tokens: Some(text.len() as u32 + 1),
        };
        Group {
            run,
            author: author.key(),
            counter,
            task: 0,
            config_hash: spec.tasks[0].config_hash,
            seed: question_seed(&run, &author.key(), counter),
            index: 0,
            policy_version: 3,
            model: "nano".into(),
            created_ms: 1_000_000,
            completions: texts.iter().map(completion).collect(),
        }
    }

    #[test]
    fn a_signed_group_opens_to_what_was_signed() {
        let signer = Signer::from_seed(&[1; 32]);
        let group = group(&signer, 5, &["4", "", "12"]);
        let signed = SignedGroup::sign(&group, &signer);
        let (opened, content) = SignedGroup::open(&signed.encode(), &spec()).expect("opens");
        assert_eq!((&opened, &content), (&signed, &group));
        assert_eq!(
            (opened.author(), opened.counter(), opened.task(), opened.policy_version()),
            (signer.key(), 5, 0, 3)
        );
        // 1 version, 3 × 32 hashes, counter, task, 9 seed, index, version, 1 + 4 model, 5 time, count; each
        // completion 1 length, 1 finish, 5 logprob, 2 tokens and its text; 64 signature.
        assert_eq!(signed.encode().len(), 1 + 96 + 2 + 9 + 2 + 5 + 5 + 1 + 3 * 9 + 3 + 64);
    }

    #[test]
    fn an_opened_group_is_whole_and_its_authors() {
        let (signer, other) = (Signer::from_seed(&[1; 32]), Signer::from_seed(&[2; 32]));
        let group = group(&signer, 5, &["4", "5"]);
        let bytes = SignedGroup::sign(&group, &signer).encode();
        let stolen = SignedGroup::sign(&group, &other).encode();
        assert!(matches!(SignedGroup::open(&stolen, &spec()), Err(GroupError::Signature)));
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            let error = SignedGroup::open(&changed, &spec()).expect_err("a changed byte");
            assert!(!error.blames_author(), "{at}: {error}");
        }
        for cut in 0..bytes.len() {
            assert!(SignedGroup::open(&bytes[..cut], &spec()).is_err());
        }
        let mut elsewhere = spec();
        elsewhere.nonce = [0; 16];
        assert!(matches!(SignedGroup::open(&bytes, &elsewhere), Err(GroupError::Run(run)) if run == spec().id()));
        assert!(matches!(
            SignedGroup::open(&vec![0; spec().limits.max_group_bytes() + 1], &spec()),
            Err(GroupError::Codec(CodecError::TooLarge { bytes: 1449, limit: 1448 }))
        ));
    }

    #[test]
    fn what_an_author_signs_against_the_rules_is_its_own_fault() {
        let signer = Signer::from_seed(&[1; 32]);
        type Change = fn(&mut Group);
        let changes: [(Change, &str); 10] = [
            (|group| group.task = 2, "task"),
            (|group| group.task = 1, "config_hash"),
            (|group| group.seed += 1, "seed"),
            (|group| group.counter += 1, "seed"),
            (|group| group.index = MAX_INDICES, "index"),
            (|group| group.model = "x".repeat(65), "model"),
            (|group| group.completions.clear(), "completions"),
            (|group| group.completions.resize(9, group.completions[0].clone()), "completions"),
            (|group| group.completions[0].text.resize(101, 0), "completion"),
            (|group| group.completions[0].logprob = Some(f32::NAN), "logprob"),
        ];
        for (change, expected) in changes {
            let mut group = group(&signer, 5, &["4", "5"]);
            change(&mut group);
            match SignedGroup::open(&SignedGroup::sign(&group, &signer).encode(), &spec()) {
                Err(error @ GroupError::Rules { field, .. }) => {
                    assert_eq!((field, error.blames_author()), (expected, true));
                }
                other => panic!("{expected}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_largest_group_fits_its_limit() {
        let signer = Signer::from_seed(&[1; 32]);
        let mut group = group(&signer, u64::MAX, &["x".repeat(100).as_str(); 8]);
        group.model = "m".repeat(64);
        (group.policy_version, group.created_ms) = (u64::MAX, u64::MAX);
        group.completions.iter_mut().for_each(|completion| completion.tokens = Some(u32::MAX));
        SignedGroup::open(&SignedGroup::sign(&group, &signer).encode(), &spec()).expect("opens");
    }
}
