//! Policy: who may do what with which grant. Whatever no rule allows is denied.
//!
//! Pure: [`file`](self) reads it, and one [`Decision`] follows from who calls, what they want and of
//! which grant. Permission comes before existence: what may not be used is denied whether it is there
//! or not.

use std::fmt;
use std::sync::Arc;

mod action;
mod file;
mod pattern;

pub use action::Action;
pub use file::{PolicyError, load};

use pattern::Pattern;

/// Rules, in the order in which they were written.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    rules: Vec<Rule>,
}

/// Allows some callers some actions on some grants.
#[derive(Debug, Clone)]
struct Rule {
    name: Arc<str>,
    subjects: Vec<Pattern>,
    grants: Vec<Pattern>,
    actions: Vec<Action>,
    /// With which a grant may be made; `None`: any.
    providers: Option<Vec<Pattern>>,
    scopes: Option<Vec<Pattern>>,
}

/// What an action is about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Target<'a> {
    /// The grant; `None` where it is of none, or of one that is not named: then any rule for the action is
    /// enough.
    pub grant: Option<&'a str>,
    /// Where a grant is made: at which provider.
    pub provider: Option<&'a str>,
    /// Where its scopes are said: these. None of them means whatever the provider gives.
    pub scopes: Option<&'a [String]>,
}

impl<'a> Target<'a> {
    /// Of this grant, as it is.
    pub fn grant(name: &'a str) -> Self {
        Self { grant: Some(name), ..Self::default() }
    }
}

/// What the policy says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision<'a> {
    /// The rule of this name allows it.
    Allowed(&'a Arc<str>),
    /// No rule does.
    Denied,
}

impl Policy {
    /// Decides for the caller of this name (as `Caller::subject` gives it).
    pub fn decide(&self, subject: &str, action: Action, target: Target<'_>) -> Decision<'_> {
        let allows = |rule: &&Rule| rule.allows(subject, action, target);
        self.rules
            .iter()
            .find(allows)
            .map_or(Decision::Denied, |rule| Decision::Allowed(&rule.name))
    }

    /// Why it decides so: each rule, and in what it fits or not.
    pub fn explain(&self, subject: &str, action: Action, target: Target<'_>) -> Vec<Explained<'_>> {
        let explained = self.rules.iter().map(|rule| Explained {
            rule: &rule.name,
            subject: rule.subjects.iter().any(|pattern| pattern.fits(subject)),
            action: rule.actions.contains(&action),
            grant: rule.covers(target.grant),
            made: rule.makes(target),
        });
        explained.collect()
    }

    /// Rules that let their callers make grants at any provider, with the company's client.
    pub fn wide(&self) -> impl Iterator<Item = &str> {
        let wide = |rule: &&Rule| {
            rule.providers.is_none() && rule.actions.iter().any(|action| action.makes_grants())
        };
        self.rules.iter().filter(wide).map(|rule| &*rule.name)
    }

    /// Names of its rules.
    pub fn rules(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().map(|rule| &*rule.name)
    }
}

/// How a rule fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "one for each column of the table")]
pub struct Explained<'a> {
    /// Its name.
    pub rule: &'a str,
    /// It is for this caller.
    pub subject: bool,
    /// It is for this action.
    pub action: bool,
    /// It is for this grant.
    pub grant: bool,
    /// It is for this provider and these scopes.
    pub made: bool,
}

impl Rule {
    fn allows(&self, subject: &str, action: Action, target: Target<'_>) -> bool {
        self.actions.contains(&action)
            && self.subjects.iter().any(|pattern| pattern.fits(subject))
            && self.covers(target.grant)
            && self.makes(target)
    }

    fn makes(&self, target: Target<'_>) -> bool {
        let fit = |patterns: &[Pattern], text: &str| patterns.iter().any(|it| it.fits(text));
        let provider = match (&self.providers, target.provider) {
            (Some(allowed), Some(provider)) => fit(allowed, provider),
            (None, _) | (_, None) => true,
        };
        let scopes = match (&self.scopes, target.scopes) {
            // None at all would be whatever the provider gives.
            (Some(allowed), Some(scopes)) => {
                !scopes.is_empty() && scopes.iter().all(|scope| fit(allowed, scope))
            }
            (None, _) | (_, None) => true,
        };
        provider && scopes
    }

    fn covers(&self, grant: Option<&str>) -> bool {
        grant.is_none_or(|grant| self.grants.iter().any(|pattern| pattern.fits(grant)))
    }
}

impl fmt::Display for Decision<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allowed(rule) => write!(f, "allowed by {rule}"),
            Self::Denied => f.write_str("denied: no rule allows it"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::file::parse;
    use super::*;
    use crate::caller::Caller;

    const POLICY: &str = "
policies:
  - name: orders
    subjects: ['kubernetes:shop/orders', 'spiffe://example.org/ns/shop/**']
    grants: ['kroger/*']
    actions: [get_token]
  - name: admins
    subjects: ['kubernetes:platform/broker-admin-*']
    grants: ['**']
    actions: ['admin.*']
";

    fn service_account(namespace: &str, name: &str) -> Caller {
        let (namespace, service_account) = (namespace.to_owned(), name.to_owned());
        Caller::Kubernetes { namespace, service_account }
    }

    #[test]
    fn what_no_rule_allows_is_denied() {
        let policy = parse(POLICY).unwrap();
        let orders = service_account("shop", "orders");
        let admin = service_account("platform", "broker-admin-1");
        let spiffe = Caller::Spiffe("spiffe://example.org/ns/shop/sa/orders".to_owned());
        let get = Action::GetToken;
        let import = Action::ImportGrant;
        for (caller, action, grant, rule) in [
            (&orders, get, Some("kroger/alice"), Some("orders")),
            (&spiffe, get, Some("kroger/alice"), Some("orders")),
            (&orders, get, Some("kroger/team/alice"), None),
            (&orders, get, Some("other/alice"), None),
            (&orders, Action::ForceRefresh, Some("kroger/alice"), None),
            (&orders, import, Some("kroger/alice"), None),
            (&service_account("shop", "orders2"), get, Some("kroger/alice"), None),
            (&service_account("shop2", "orders"), get, Some("kroger/alice"), None),
            (&Caller::Anyone, get, Some("kroger/alice"), None),
            (&Caller::Static("kubernetes:shop/orders".to_owned()), get, Some("kroger/alice"), None),
            (&admin, import, Some("kroger/team/alice"), Some("admins")),
            (&admin, Action::GetBrokerStatus, None, Some("admins")),
            (&admin, get, Some("kroger/alice"), None),
            (&service_account("platform", "broker-admin-1/x"), import, Some("kroger/a"), None),
        ] {
            let allowed_by = match policy.decide(
                &caller.subject(),
                action,
                Target { grant, ..Target::default() },
            ) {
                Decision::Allowed(rule) => Some(&**rule),
                Decision::Denied => None,
            };
            assert_eq!(allowed_by, rule, "{caller} {action} {grant:?}");
        }
    }

    #[test]
    fn each_rule_says_in_what_it_fits() {
        let policy = parse(POLICY).unwrap();
        let orders = service_account("shop", "orders");
        let explained =
            policy.explain(&orders.subject(), Action::ForceRefresh, Target::grant("kroger/alice"));
        assert_eq!(
            explained[0],
            Explained { rule: "orders", subject: true, action: false, grant: true, made: true }
        );
        assert_eq!(
            explained[1],
            Explained { rule: "admins", subject: false, action: false, grant: true, made: true }
        );
    }

    #[test]
    fn a_rule_names_the_providers_and_scopes_of_what_is_made() {
        let policy = parse(
            "
policies:
  - name: team
    subjects: ['static:ana']
    grants: ['team-a/*']
    actions: [get_token, admin.create, admin.enroll, admin.update]
    providers: ['kroger', 'shop-*']
    scopes: ['product.*', 'profile']
  - name: wide
    subjects: ['static:eve']
    grants: ['team-e/*']
    actions: [admin.create]
",
        )
        .unwrap();
        let scopes = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>();
        for (action, provider, asked, allowed) in [
            (Action::CreateGrant, Some("kroger"), Some(scopes(&["profile"])), true),
            (Action::EnrollGrant, Some("shop-1"), Some(scopes(&["product.a", "profile"])), true),
            (Action::CreateGrant, Some("google"), Some(scopes(&["profile"])), false),
            (Action::CreateGrant, Some("kroger"), Some(scopes(&["profile", "admin"])), false),
            (Action::CreateGrant, Some("kroger"), Some(scopes(&[])), false),
            // What a grant has is not asked of who uses it.
            (Action::GetToken, None, None, true),
            (Action::UpdateGrant, None, None, true),
            (Action::UpdateGrant, None, Some(scopes(&["admin"])), false),
        ] {
            let target = Target { provider, scopes: asked.as_deref(), ..Target::grant("team-a/x") };
            let decision = policy.decide("static:ana", action, target);
            assert_eq!(decision != Decision::Denied, allowed, "{action} {target:?}");
        }
        let any = Target { provider: Some("google"), ..Target::grant("team-e/x") };
        assert_ne!(policy.decide("static:eve", Action::CreateGrant, any), Decision::Denied);
        assert_eq!(policy.wide().collect::<Vec<_>>(), ["wide"], "and that is told");
    }
}
