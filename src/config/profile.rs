//! Profiles: what is known of providers, as partial provider configurations with their sources.

use serde_json::{Map, Value};

use crate::config::file::{Profile, ProviderSection};

impl Profile {
    const ALL: [Self; 4] = [Self::Generic, Self::Kroger, Self::Atlassian, Self::Okta];

    /// The profile, as it is written.
    fn text(self) -> &'static str {
        match self {
            Self::Generic => include_str!("profiles/generic.yaml"),
            Self::Kroger => include_str!("profiles/kroger.yaml"),
            Self::Atlassian => include_str!("profiles/atlassian.yaml"),
            Self::Okta => include_str!("profiles/okta.yaml"),
        }
    }
}

/// The profile of this name, as it is written.
pub fn profile(name: &str) -> Option<&'static str> {
    Profile::ALL.into_iter().find(|profile| profile.name() == name).map(Profile::text)
}

/// The names of all profiles.
pub fn profile_names() -> Vec<&'static str> {
    Profile::ALL.map(Profile::name).to_vec()
}

/// A provider's own configuration, with what its profile and then the generic one say where it says
/// nothing. Its own error rules come first.
pub(super) fn filled(own: &ProviderSection) -> ProviderSection {
    let mut value = said(own);
    for profile in [own.profile, Profile::Generic] {
        let below = serde_saphyr::from_str(profile.text()).unwrap_or_default();
        for (name, below) in said(&below) {
            match (value.get_mut(&name), below) {
                (Some(Value::Array(rules)), Value::Array(more)) if name == "error_map" => {
                    rules.extend(more);
                }
                (Some(_), _) => {}
                // Said under its older name.
                (None, _) if name == "replay" && own.reuse_grace.is_some() => {}
                (None, below) => drop(value.insert(name, below)),
            }
        }
    }
    value.insert("profile".to_owned(), own.profile.name().into());
    serde_json::from_value(Value::Object(value)).unwrap_or_default()
}

/// What a configuration says; what it leaves out is absent.
fn said(section: &ProviderSection) -> Map<String, Value> {
    let Ok(Value::Object(mut fields)) = serde_json::to_value(section) else { return Map::new() };
    fields.retain(|name, value| {
        name != "profile" && !value.is_null() && *value != Value::Array(Vec::new())
    });
    fields
}
