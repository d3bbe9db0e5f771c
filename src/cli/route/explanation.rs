//! Where a call goes, candidate by candidate.

use std::collections::BTreeMap;
use std::time::Duration;

use quartermaster_core::api::model_route::{FallbackCause, Strategy, Tier};
use quartermaster_core::decide::gateway::assemble::Assembled;
use quartermaster_core::decide::gateway::plan::{Caller, Candidate as Named, Endpoints, FallbackCandidate, Plan, Route};
use quartermaster_core::decide::request::attempts::{Attempts, Step};
use quartermaster_core::decide::request::body::Body;
use quartermaster_core::decide::request::candidates::{self, Call, Choice, Exclusion, Judged, World};
use quartermaster_core::decide::request::labels;
use quartermaster_core::decide::request::learned::Learned;
use quartermaster_core::decide::request::rules::{self, Asked};
use serde::Serialize;

/// Where a call goes, and why.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    model: String,
    route: String,
    caller: String,
    /// Tokens of the prompt, estimated.
    prompt_tokens: u64,
    labels: BTreeMap<String, String>,
    ignored_labels: Vec<IgnoredLabel>,
    /// The rules up to the one that decides, in their order.
    rules: Vec<RuleVerdict>,
    /// The rule that decides; absent: the plain backends answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<String>,
    strategy: Strategy,
    /// In the order in which they are asked, then those that are not.
    candidates: Vec<Candidate>,
    fallback: Vec<Fallback>,
    /// The backend that gets the call first; absent: none can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goes_to: Option<String>,
    /// What of the route is not as its spec says.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct IgnoredLabel {
    name: String,
    reason: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RuleVerdict {
    name: String,
    matches: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Candidate {
    backend: String,
    tier: Tier,
    weight: u32,
    /// What the call would cost there, estimated, in the currency of the prices.
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<String>,
    /// Its place in the order in which they are asked, from 1; absent: it is not asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<usize>,
    /// Why it is not asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    out: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Fallback {
    backend: String,
    tier: Tier,
    causes: Vec<FallbackCause>,
    #[serde(skip_serializing_if = "Option::is_none")]
    out: Option<String>,
}

impl Explanation {
    /// The explanation for a call of a route by a caller, of whose budgets so many percent are used; `None`: none covers it. `None`: the
    /// plan has no such route.
    pub fn of(
        assembled: &Assembled,
        name: &str,
        (caller_name, caller, budget_used_percent): (&str, &Caller, Option<u32>),
        body: &Body,
        headers: &[(String, String)],
    ) -> Option<Self> {
        let plan = &assembled.plan;
        let route = plan.routes.get(name)?;
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let metadata: Vec<(&str, &str)> = body.metadata.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let labels = labels::of_call(caller, &route.trusted_labels, headers.iter().copied(), metadata.iter().copied());
        let call = Call {
            route: name,
            caller: caller_name,
            labels: &labels,
            format: body.operation.format()?,
            prompt_tokens: body.prompt_tokens,
            output_limit: body.output_limit,
            tier_ceiling: None,
            needs_price: false,
            budget_used_percent,
            stored_input: body.stored_input,
        };
        // Nothing has been learnt, every key has a value, and every backend is ready.
        let world = World { plan, endpoints: &Endpoints::new(), key_value: &|_, _| Some([0; 32]) };
        let learned = &mut Learned::default();
        let mut attempts = Attempts::new(&world, learned, &call, body.stream, Duration::ZERO)?;
        let goes_to = match attempts.next(&world, learned, Duration::ZERO, 0.0) {
            Step::Attempt(attempt) => Some(attempt.running.backend().to_owned()),
            Step::Wait(_) | Step::GiveUp(_) => None,
        };
        let choice = attempts.choice();
        let asked = Asked { labels: &labels, caller: caller_name, prompt_tokens: body.prompt_tokens, budget_used_percent };
        let finding = assembled.routes.get(name);
        let notes =
            finding.into_iter().flat_map(|finding| finding.refused.iter().chain(&finding.limited).chain(&finding.unresolved));
        Some(Self {
            model: body.model.clone(),
            route: name.to_owned(),
            caller: caller_name.to_owned(),
            prompt_tokens: body.prompt_tokens,
            ignored_labels: ignored(caller, route, &headers, &metadata),
            rules: rule_verdicts(route, &asked),
            rule: choice.rule.map(ToOwned::to_owned),
            strategy: choice.strategy,
            candidates: listed(plan, route, choice, &call),
            fallback: route.fallback.iter().zip(&choice.fallback).map(Fallback::of).collect(),
            goes_to,
            notes: notes.map(ToString::to_string).collect(),
            labels: labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        })
    }

    /// The explanation for people.
    pub fn text(&self) -> String {
        let mut lines = vec![
            format!("model {:?} is the route {}, called by {}", self.model, self.route, self.caller),
            format!("  prompt: about {} tokens", self.prompt_tokens),
        ];
        let labels: Vec<String> = self.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        lines.push(format!("  labels: {}", if labels.is_empty() { "none".to_owned() } else { labels.join(", ") }));
        lines.extend(self.ignored_labels.iter().map(|label| format!("    {} does not count: {}", label.name, label.reason)));
        lines.extend(self.rules.iter().map(|rule| match &rule.reason {
            Some(reason) => format!("  rule {}: no, {reason}", rule.name),
            None => format!("  rule {}: yes", rule.name),
        }));
        let of = self.rule.as_ref().map_or("the plain backends".to_owned(), |rule| format!("those of the rule {rule}"));
        lines.push(format!("  candidates: {of}, by {:?}", self.strategy));
        lines.extend(self.candidates.iter().map(|candidate| format!("    {}", candidate.text(self.strategy))));
        if !self.fallback.is_empty() {
            lines.push("  fallback:".to_owned());
        }
        lines.extend(self.fallback.iter().map(|fallback| format!("    {}", fallback.text())));
        lines.extend(self.notes.iter().map(|note| format!("  note: {note}")));
        lines.push(match &self.goes_to {
            Some(backend) => format!("  goes to {backend}"),
            None => "  goes nowhere".to_owned(),
        });
        lines.join("\n") + "\n"
    }
}

impl Candidate {
    fn text(&self, strategy: Strategy) -> String {
        let mark = self.place.map_or("-".to_owned(), |place| format!("{place}."));
        let mut facts = vec![format!("{:?}", self.tier)];
        match strategy {
            Strategy::Weighted => facts.push(format!("weight {}", self.weight)),
            Strategy::LowestCost => facts.push(self.cost.as_ref().map_or("no price".to_owned(), |cost| format!("about {cost}"))),
            Strategy::RoundRobin | Strategy::Priority => {}
        }
        facts.extend(self.region.clone());
        facts.extend(self.out.clone());
        format!("{mark:3} {}: {}", self.backend, facts.join(", "))
    }
}

impl Fallback {
    fn of((named, judged): (&FallbackCandidate, &Judged<'_>)) -> Self {
        let causes = named.causes.iter().copied().collect();
        Self { backend: judged.backend.to_owned(), tier: judged.tier, causes, out: judged.out.as_ref().map(Exclusion::to_string) }
    }

    fn text(&self) -> String {
        let causes: Vec<String> = self.causes.iter().map(|cause| format!("{cause:?}")).collect();
        let out = self.out.as_ref().map_or(String::new(), |out| format!(", {out}"));
        format!("{}: {:?}, on {}{out}", self.backend, self.tier, causes.join(", "))
    }
}

/// The labels that the call states and that do not count.
fn ignored(caller: &Caller, route: &Route, headers: &[(&str, &str)], metadata: &[(&str, &str)]) -> Vec<IgnoredLabel> {
    let headers = headers.iter().filter_map(|(name, value)| Some((labels::name_in_header(name, &route.trusted_labels)?, *value)));
    let refused = headers.chain(metadata.iter().copied()).filter_map(|(name, value)| {
        let reason = labels::judge(caller, &route.trusted_labels, name, value).err()?;
        Some(IgnoredLabel { name: name.to_owned(), reason: reason.to_string() })
    });
    refused.collect()
}

/// The rules up to the first that matches.
fn rule_verdicts(route: &Route, asked: &Asked<'_>) -> Vec<RuleVerdict> {
    let decides = rules::first_match(&route.rules, asked).map(|rule| &rule.name);
    let mut verdicts = Vec::new();
    for rule in &route.rules {
        let reason = rules::mismatch(&rule.when, asked).map(|mismatch| mismatch.to_string());
        verdicts.push(RuleVerdict { name: rule.name.clone(), matches: reason.is_none(), reason });
        if decides == Some(&rule.name) {
            break;
        }
    }
    verdicts
}

/// The candidates in the order in which they are asked, then those that are not, in that of the list.
fn listed(plan: &Plan, route: &Route, choice: &Choice<'_>, call: &Call<'_>) -> Vec<Candidate> {
    let rule = route.rules.iter().find(|rule| Some(rule.name.as_str()) == choice.rule);
    let named: &[Named] = rule.map_or(route.backends.as_slice(), |rule| rule.backends.as_slice());
    let candidate = |(index, (judged, named)): (usize, (&Judged<'_>, &Named))| {
        let backend = plan.backends.get(judged.backend);
        Candidate {
            backend: judged.backend.to_owned(),
            tier: judged.tier,
            weight: named.weight,
            cost: backend.and_then(|backend| candidates::cost(backend, call)).map(decimal),
            region: backend.and_then(|backend| backend.region.clone()),
            place: choice.order.iter().position(|asked| *asked == index).map(|place| place + 1),
            out: judged.out.as_ref().map(Exclusion::to_string),
        }
    };
    let mut listed: Vec<Candidate> = choice.candidates.iter().zip(named).enumerate().map(candidate).collect();
    listed.sort_by_key(|candidate| candidate.place.unwrap_or(usize::MAX));
    listed
}

/// An amount in millionths of a millionth, in units, with six decimals: enough to compare calls.
fn decimal(amount: u128) -> String {
    let millionths = amount.div_ceil(1_000_000);
    format!("{}.{:06}", millionths / 1_000_000, millionths % 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::decimal;

    #[test]
    fn an_amount_is_shown_in_units_and_never_as_nothing_unless_it_is() {
        assert_eq!(decimal(0), "0.000000");
        assert_eq!(decimal(1), "0.000001");
        assert_eq!(decimal(2_600_000_000), "0.002600");
        assert_eq!(decimal(3_000_000_000_000_000), "3000.000000");
    }
}
