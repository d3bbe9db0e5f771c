//! Whether the choice in force stays.
//!
//! A choice, once made, stays while it is legal and the spec asks for the same: an upgrade of the operator, a new node or a
//! grown table changes no pod. It is kept in an annotation of the Deployment, so that a lost status changes nothing either.

use serde::{Deserialize, Serialize};

use super::children::Placement;
use crate::api::status::SizingStatus;
use crate::api::vllm::{UpgradeType, VllmSpec};
use crate::decide::short_hash;

/// The vLLM release that this operator was tested with.
pub const DEFAULT_IMAGE: &str = "vllm/vllm-openai:v0.33.0";
/// The annotation of a backend by which a user takes a better choice: its value is the generation of the spec.
pub const UPGRADE_ANNOTATION: &str = "quartermaster.dev/upgrade";

/// What was chosen, with all that its pods follow from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Choice {
    /// Sizes, context and image.
    pub sizing: SizingStatus,
    /// Where the pods may run.
    pub placement: Placement,
    /// Hash of `spec.vllm` when the choice was made.
    pub spec_hash: String,
}

/// What the decision between the choice in force and a fresh one depends on.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The choice in force, if there is one.
    pub in_force: Option<&'a Choice>,
    /// Whether it is still legal for the model and for what the spec asks.
    pub legal: bool,
    /// What would be chosen now; none where nothing fits, or where it is not known what would.
    pub fresh: Option<&'a Choice>,
    /// When a better choice is taken.
    pub upgrade: UpgradeType,
    /// The user asked for the better choice by annotation.
    pub asked: bool,
}

/// Which choice is in force from here, and whether a better one waits.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer<'a> {
    /// The choice.
    pub choice: &'a Choice,
    /// The better one that waits.
    pub waiting: Option<&'a Choice>,
}

/// Decides between the choice in force and a fresh one. `None`: there is neither.
pub fn decide<'a>(question: Question<'a>) -> Option<Answer<'a>> {
    let Question { in_force, legal, fresh, upgrade, asked } = question;
    let kept = in_force.filter(|_| legal);
    let (Some(kept), Some(fresh)) = (kept, fresh) else {
        return kept.or(fresh).map(|choice| Answer { choice, waiting: None });
    };
    let same_spec = kept.spec_hash == fresh.spec_hash;
    let take = match upgrade {
        UpgradeType::Automatic => true,
        UpgradeType::OnSpecChange => asked || !same_spec,
        UpgradeType::Manual => asked,
    };
    if take {
        return Some(Answer { choice: fresh, waiting: None });
    }
    Some(Answer { choice: kept, waiting: differs(kept, fresh).then_some(fresh) })
}

/// Whether two choices make different pods. The words of the derivation and predicted numbers do not matter.
fn differs(one: &Choice, other: &Choice) -> bool {
    let essence = |choice: &Choice| {
        let sizing = &choice.sizing;
        (
            sizing.accelerator_product.clone(),
            sizing.resource_name.clone(),
            (sizing.tensor_parallel_size, sizing.pipeline_parallel_size, sizing.data_parallel_size),
            (sizing.context_length, sizing.expert_parallel, sizing.enforce_eager),
            sizing.image.clone(),
        )
    };
    essence(one) != essence(other)
}

/// Hash of everything in `spec.vllm` that can change a pod: not when, nor how, a new version comes.
pub fn spec_hash(spec: &VllmSpec) -> Result<String, serde_json::Error> {
    let spec = VllmSpec { upgrade: None, rollout: None, ..spec.clone() };
    Ok(short_hash::of(serde_json::to_vec(&serde_json::to_value(spec)?)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(tensor: u32, spec_hash: &str) -> Choice {
        Choice {
            sizing: SizingStatus { tensor_parallel_size: tensor, ..SizingStatus::default() },
            placement: Placement::default(),
            spec_hash: spec_hash.to_owned(),
        }
    }

    fn question<'a>(in_force: &'a Choice, fresh: &'a Choice) -> Question<'a> {
        Question { in_force: Some(in_force), legal: true, fresh: Some(fresh), upgrade: UpgradeType::OnSpecChange, asked: false }
    }

    #[test]
    fn a_legal_choice_stays_and_the_better_one_waits() {
        let (in_force, fresh) = (choice(4, "a"), choice(2, "a"));
        let answer = decide(question(&in_force, &fresh)).unwrap();
        assert_eq!((answer.choice, answer.waiting), (&in_force, Some(&fresh)));
    }

    #[test]
    fn the_same_choice_computed_again_does_not_wait() {
        let (in_force, mut fresh) = (choice(4, "a"), choice(4, "a"));
        fresh.sizing.derivation = Some("other words".into());
        assert_eq!(decide(question(&in_force, &fresh)).unwrap().waiting, None);
    }

    #[test]
    fn a_change_of_the_spec_takes_the_better_choice_unless_upgrades_are_manual() {
        let (in_force, fresh) = (choice(4, "a"), choice(2, "b"));
        assert_eq!(decide(question(&in_force, &fresh)).unwrap().choice, &fresh);
        let manual = Question { upgrade: UpgradeType::Manual, ..question(&in_force, &fresh) };
        assert_eq!(decide(manual).unwrap().choice, &in_force);
        assert_eq!(decide(Question { asked: true, ..manual }).unwrap().choice, &fresh);
    }

    #[test]
    fn a_choice_that_is_no_longer_legal_goes_whatever_the_upgrade_type() {
        let (in_force, fresh) = (choice(4, "a"), choice(2, "a"));
        let illegal = Question { legal: false, upgrade: UpgradeType::Manual, ..question(&in_force, &fresh) };
        assert_eq!(decide(illegal).unwrap().choice, &fresh);
        assert_eq!(decide(Question { fresh: None, ..illegal }), None);
    }

    #[test]
    fn without_a_fresh_choice_the_one_in_force_stays() {
        let in_force = choice(4, "a");
        let lost = Question { fresh: None, ..question(&in_force, &in_force) };
        assert_eq!(decide(lost).unwrap().choice, &in_force);
    }
}
