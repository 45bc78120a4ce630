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
    /// Decides for the caller of this name (as `Caller::subject` gives it). `grant`: of which one; `None`
    /// where it is of none, or of one that is not named: then any rule for the action is enough.
    pub fn decide(&self, subject: &str, action: Action, grant: Option<&str>) -> Decision<'_> {
        let allows = |rule: &&Rule| rule.allows(subject, action, grant);
        self.rules
            .iter()
            .find(allows)
            .map_or(Decision::Denied, |rule| Decision::Allowed(&rule.name))
    }

    /// Why it decides so: each rule, and in what it fits or not.
    pub fn explain(
        &self,
        subject: &str,
        action: Action,
        grant: Option<&str>,
    ) -> Vec<Explained<'_>> {
        let explained = self.rules.iter().map(|rule| Explained {
            rule: &rule.name,
            subject: rule.subjects.iter().any(|pattern| pattern.fits(subject)),
            action: rule.actions.contains(&action),
            grant: rule.covers(grant),
        });
        explained.collect()
    }

    /// Names of its rules.
    pub fn rules(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().map(|rule| &*rule.name)
    }
}

/// How a rule fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Explained<'a> {
    /// Its name.
    pub rule: &'a str,
    /// It is for this caller.
    pub subject: bool,
    /// It is for this action.
    pub action: bool,
    /// It is for this grant.
    pub grant: bool,
}

impl Rule {
    fn allows(&self, subject: &str, action: Action, grant: Option<&str>) -> bool {
        self.actions.contains(&action)
            && self.subjects.iter().any(|pattern| pattern.fits(subject))
            && self.covers(grant)
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
            let allowed_by = match policy.decide(&caller.subject(), action, grant) {
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
            policy.explain(&orders.subject(), Action::ForceRefresh, Some("kroger/alice"));
        assert_eq!(
            explained[0],
            Explained { rule: "orders", subject: true, action: false, grant: true }
        );
        assert_eq!(
            explained[1],
            Explained { rule: "admins", subject: false, action: false, grant: true }
        );
    }
}
