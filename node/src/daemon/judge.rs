//! Whether another peer's group is what it says, and what its completions earn: the question is made anew, nothing that
//! the sender says of it is trusted.

use swarmloom_protocol::group::Group;
use swarmloom_protocol::swarm::Judgement;

use crate::book::{TaskBook, Unverifiable, prompt_hash};

/// Makes the group's question and scores every completion. Costs what the task costs, which its configuration bounds.
pub(crate) fn judge(book: &TaskBook, group: &Group) -> Judgement {
    match book.question_of(group) {
        Ok(question) => Judgement::Scored {
            rewards: book.rewards(&question, group.completions.iter().map(|completion| completion.text.as_slice())),
            prompt_hash: prompt_hash(&question.prompt),
        },
        Err(Unverifiable::HeldOut) => Judgement::HeldOut,
        Err(error) => Judgement::Unverifiable(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use swarmloom_protocol::group::{Completion, Finish};
    use swarmloom_protocol::id::Signer;
    use swarmloom_protocol::run::{RunSpec, question_seed};

    use super::*;
    use crate::book::tests::small_run;

    fn group(spec: &RunSpec, book: &TaskBook, texts: &[&[u8]]) -> Group {
        let author = Signer::from_seed(&[3; 32]).key();
        let question = book.question(1, question_seed(&spec.id(), &author, 9)).expect("a question");
        Group {
            run: spec.id(),
            author,
            counter: 9,
            task: 1,
            config_hash: spec.tasks[1].config_hash,
            seed: question.seed,
            index: question.index,
            policy_version: 4,
            model: "nano".into(),
            created_ms: 0,
            completions: texts
                .iter()
                .map(|text| Completion { text: text.to_vec(), finish: Finish::Stop, logprob: None, tokens: None })
                .collect(),
        }
    }

    #[test]
    fn rewards_are_computed_here_and_a_shifted_index_is_found() {
        let (spec, book) = small_run();
        let question = book.question(1, question_seed(&spec.id(), &Signer::from_seed(&[3; 32]).key(), 9)).expect("one");
        let target = book.entries()[1].target(&question).expect("a target");
        let mut told = group(&spec, &book, &[target.as_bytes(), b"zzz", b"\xf0\x28"]);
        let Judgement::Scored { rewards, prompt_hash: hash } = judge(&book, &told) else { panic!("it is sound") };
        assert_eq!((rewards[0], rewards.len()), (1.0, 3));
        assert!(rewards[1] < 1.0 && rewards[2] < 1.0);
        assert_eq!(hash, prompt_hash(&question.prompt));
        told.index += 1;
        assert!(matches!(judge(&book, &told), Judgement::Unverifiable(why) if why.contains("index")));
        // A seed whose first question is held out, and a group that says it is about that one.
        let passed = (0..).map(|seed| book.question(1, seed).expect("one")).find(|question| question.index > 0);
        (told.seed, told.index) = (passed.expect("every so often one is held out").seed, 0);
        assert_eq!(judge(&book, &told), Judgement::HeldOut);
        told.task = 7;
        assert!(matches!(judge(&book, &told), Judgement::Unverifiable(why) if why.contains("no task 7")));
    }
}
