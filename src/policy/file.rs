//! The policy file: YAML, taken whole or not at all.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::caller::Caller;
use crate::policy::action::ALL_OF_OPERATORS;
use crate::policy::pattern::Pattern;
use crate::policy::{Action, Policy, Rule};
use crate::textfile;

/// Longest policy.
const FILE_LEN_MAX: u64 = 1024 * 1024;
/// Why there is no policy: everything that is wrong with the file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the policy is wrong: {}", .0.join("; "))]
pub struct PolicyError(pub Vec<String>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    policies: Vec<Section>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Section {
    name: String,
    subjects: Vec<String>,
    grants: Vec<String>,
    actions: Vec<String>,
    providers: Option<Vec<String>>,
    scopes: Option<Vec<String>>,
}

/// Reads a policy.
pub fn load(path: &Path) -> Result<Policy, PolicyError> {
    parse(&read(path)?)
}

/// Reads the text of a policy.
fn read(path: &Path) -> Result<Zeroizing<String>, PolicyError> {
    let shown = path.display();
    textfile::read(path, FILE_LEN_MAX)
        .map_err(|error| PolicyError(vec![format!("{shown} cannot be read: {error}")]))
}

/// Takes a policy from YAML.
pub(super) fn parse(text: &str) -> Result<Policy, PolicyError> {
    let file: File = serde_saphyr::from_str(text).map_err(|error| {
        // Only the place and the kind: others may read the log.
        PolicyError(vec![error.to_string().lines().next().unwrap_or_default().to_owned()])
    })?;
    let mut problems = Vec::new();
    let mut names = BTreeSet::new();
    let mut rules = Vec::new();
    for (index, section) in file.policies.into_iter().enumerate() {
        let name = section.name.clone();
        let shown = if name.is_empty() { format!("policies.{index}") } else { name.clone() };
        let mut problem = |what: String| problems.push(format!("{shown}: {what}"));
        if name.is_empty() {
            problem("needs a name, which the audit log shows".to_owned());
        } else if !names.insert(name.clone()) {
            problem("another rule has the same name".to_owned());
        }
        let empty = [
            ("subjects", section.subjects.is_empty()),
            ("grants", section.grants.is_empty()),
            ("actions", section.actions.is_empty()),
            ("providers", section.providers.as_ref().is_some_and(Vec::is_empty)),
            ("scopes", section.scopes.as_ref().is_some_and(Vec::is_empty)),
        ];
        for (what, _) in empty.into_iter().filter(|(_, empty)| *empty) {
            problem(format!("`{what}` is empty, so it allows nothing"));
        }
        for subject in &section.subjects {
            // With something else in the place of each run it could be somebody's name.
            let name = subject.replace("**", "x/x").replace('*', "x");
            let pods = subject.strip_prefix("kubernetes:").and_then(|rest| rest.split_once('/'));
            let one = subject.replace("**", "x").replace('*', "x");
            let right = Caller::named(&name).is_some() || Caller::named(&one).is_some();
            let too_wide = subject.starts_with("kubernetes:")
                && pods.is_none_or(|(namespace, _)| namespace.contains("**"));
            if !right || too_wide {
                problem(format!(
                    "subject {subject:?} must be kubernetes:NAMESPACE/SERVICEACCOUNT, \
                     spiffe://DOMAIN/PATH, static:NAME or anyone"
                ));
            }
        }
        let actions = actions(&section.actions, &mut problem);
        let patterns = |texts: &[String]| texts.iter().map(|text| Pattern::new(text)).collect();
        let (subjects, grants) = (patterns(&section.subjects), patterns(&section.grants));
        let (providers, scopes) =
            (section.providers.as_deref().map(patterns), section.scopes.as_deref().map(patterns));
        rules.push(Rule { name: name.into(), subjects, grants, actions, providers, scopes });
    }
    if problems.is_empty() { Ok(Policy { rules }) } else { Err(PolicyError(problems)) }
}

fn actions(names: &[String], problem: &mut impl FnMut(String)) -> Vec<Action> {
    let mut actions = Vec::new();
    for name in names {
        if name == ALL_OF_OPERATORS {
            actions.extend(Action::ALL.into_iter().filter(|action| action.is_of_operators()));
        } else if let Some(action) = Action::from_name(name) {
            actions.push(action);
        } else {
            let known: Vec<_> = Action::ALL.into_iter().map(Action::name).collect();
            problem(format!(
                "there is no action {name:?}; there are {}, {ALL_OF_OPERATORS}",
                known.join(", ")
            ));
        }
    }
    actions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once() {
        let told = problems(
            "
policies:
  - { name: a, subjects: [shop/orders], grants: [], actions: [get_token, take_all] }
  - { name: a, subjects: [anyone], grants: ['*'], actions: ['*'] }
  - { name: '', subjects: [], grants: ['*'], actions: [get_token] }
",
        );
        for nobody in [
            "kubernetes:shop*",
            "kubernetes:*",
            "kubernetes:**",
            "kubernetes:shop**/a",
            "static:a/b",
            "spiffe://x",
            "kubernetes:system:serviceaccount:shop:orders",
            "**",
        ] {
            let rule = format!(
                "policies: [{{name: a, subjects: ['{nobody}'], grants: ['*'], actions: [get_token]}}]"
            );
            assert!(problems(&rule).contains("must be kubernetes:"), "{nobody}");
        }
        for part in [
            "\"shop/orders\" must be",
            "`grants` is empty",
            "no action \"take_all\"",
            "the same name",
            "no action \"*\"",
            "policies.2: needs a name",
            "`subjects` is empty",
        ] {
            assert!(told.contains(part), "{part}\n{told}");
        }
        for text in [
            "",
            "policies: 7",
            "rules: []",
            "policies: [{ name: a, who: b }]",
            "policies: [",
            "\u{0}",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        assert!(parse("policies: []").unwrap().rules().next().is_none(), "denies everything");
    }
}
