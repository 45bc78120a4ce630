//! Who consented, as far as a reply says it. Pure.

use serde_json::Value;

use crate::secret::{Account, IdToken};
use crate::upstream::reply::members::members;
use crate::upstream::reply::raw::Raw;

/// What a reply says of the person.
#[derive(Debug, Default)]
pub(crate) struct Person {
    /// What stands in the configured member.
    pub(crate) account: Option<Account>,
    /// What the provider signed, not checked yet.
    pub(crate) id_token: Option<IdToken>,
}

/// Reads a successful reply; `member` has dots between its steps.
pub(crate) fn person(raw: &Raw<'_>, member: Option<&str>) -> Person {
    let body = raw.text();
    let Some(fields) = members(&body) else { return Person::default() };
    let id_token = fields.get("id_token").and_then(Value::as_str).map(IdToken::new);
    let root = Value::Object(fields);
    let value =
        member.and_then(|member| member.split('.').try_fold(&root, |value, step| value.get(step)));
    let account = value.and_then(|value| match value {
        Value::String(text) => Some(text.clone()).filter(|text| !text.is_empty()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    });
    Person { account: account.map(Account::new), id_token }
}
