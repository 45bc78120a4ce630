//! From what was written about a provider, and what its profile says, to what the program asks.

use std::sync::Arc;
use std::time::Duration;

use url::Url;

use crate::broker::endpoint::{Again, Habits, Replay};
use crate::broker::model::ProviderId;
use crate::config::profile::filled;
use crate::config::{Problem, file};
use crate::upstream::{Credentials, Endpoints, ErrorMap, Meaning, Provider, Rule, is_private};

mod client;

pub use client::ClientFile;
use client::client_auth;

/// Longest `listen_max`: doubt, suspicion and shutdown last as long.
const LISTEN_MAX_MAX: Duration = Duration::from_secs(300);

/// In less than this nothing was ever presented again.
const WINDOW_MIN: Duration = Duration::from_secs(3);

/// Checks a provider; `None` if anything is wrong with it.
pub(super) fn provider(
    name: &str,
    section: &file::ProviderSection,
    problems: &mut Vec<Problem>,
) -> Option<Provider> {
    let path = |key: &str| format!("providers.{name}.{key}");
    let before = problems.len();
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    if name.is_empty() || !name.chars().all(allowed) {
        problems.push(Problem::new(
            format!("providers.{name}"),
            "a provider's name is of a-z, 0-9, '_' and '-'",
        ));
    }
    if let Some(why) = useless_window(section) {
        problems.push(Problem::new(path("replay"), why));
    }
    let section = &filled(section);
    let urls = urls(section, &path, problems);
    for name in section.authorize_parameters.keys().filter(|name| RESERVED.contains(&name.as_str()))
    {
        problems.push(Problem::new(
            path("authorize_parameters"),
            format!("`{name}` is ours to say, and may be said once (RFC 6749 section 3.1)"),
        ));
    }
    let client_id = section.client_id.clone().filter(|id| !id.is_empty());
    if client_id.is_none() {
        problems.push(Problem::new(path("client_id"), "is required"));
    }
    let client_auth = client_auth(section, &path, problems);
    let credentials = client_auth.map(|(first, others)| Arc::new(Credentials::new(first, others)));
    let connect_timeout = section.connect_timeout.map_or(Duration::ZERO, |span| span.0);
    let habits = habits(section);
    let listen_max = habits.listen_max;
    if listen_max > LISTEN_MAX_MAX {
        problems.push(Problem::new(path("listen_max"), "must be 5m at most"));
    }
    if connect_timeout >= listen_max {
        problems.push(Problem::new(
            path("connect_timeout"),
            "must be below `listen_max`, or a stalled connect looks like a lost answer",
        ));
    }
    for (key, span) in [
        ("default_lifetime", section.default_lifetime),
        ("lifetime_max", section.lifetime_max),
        ("connect_timeout", section.connect_timeout),
        ("listen_max", section.listen_max),
    ] {
        if span.is_some_and(|span| span.0.is_zero()) {
            problems.push(Problem::new(path(key), "must be above zero"));
        }
    }
    for name in section.attributes.iter().filter(|name| name.contains("token")) {
        problems.push(Problem::new(
            path("attributes"),
            format!("`{name}` sounds like a token; callers get access tokens and nothing else"),
        ));
    }
    let field = section.account_field.as_deref().filter(|name| !name.is_empty());
    if field.is_some_and(|name| name.contains("token") || name.split('.').any(str::is_empty)) {
        problems.push(Problem::new(
            path("account_field"),
            "names a member of the provider's reply that says whose account it is, such as `user_id` \
             or `user.id`; not a token",
        ));
    }
    vague_rules(section, &path, problems);
    let error_map = ErrorMap::new(section.error_map.iter().map(rule).collect());
    if problems.len() > before {
        return None;
    }
    Some(Provider {
        id: ProviderId::new(name),
        profile: section.profile.name().to_owned(),
        endpoints: urls.endpoints,
        discovery: urls.discovery,
        authorize_parameters: section.authorize_parameters.clone(),
        redirect_url: urls.redirect,
        pkce: section.pkce.unwrap_or(true),
        issuer: section.issuer.clone(),
        client_id: client_id?,
        credentials: credentials?,
        default_lifetime: section.default_lifetime.map_or(Duration::ZERO, |span| span.0),
        lifetime_max: section.lifetime_max.map_or(Duration::ZERO, |span| span.0),
        connect_timeout,
        habits,
        account_field: field.map(str::to_owned),
        attributes: section.attributes.clone(),
        error_map,
    })
}

/// Parameters of a question that the broker sets itself, and `response_mode`, without which the
/// answer is in the address.
const RESERVED: [&str; 9] = [
    "nonce",
    "response_type",
    "client_id",
    "redirect_uri",
    "scope",
    "state",
    "code_challenge",
    "code_challenge_method",
    "response_mode",
];

/// Where a provider is, and where people come back from it.
struct Urls {
    endpoints: Endpoints,
    discovery: bool,
    redirect: Option<String>,
}

fn urls(
    section: &file::ProviderSection,
    path: &impl Fn(&str) -> String,
    problems: &mut Vec<Problem>,
) -> Urls {
    let base = section.base_url.as_deref();
    let unplaced = section.token_url.is_none() && base.is_none();
    let discovery = section.discovery.unwrap_or(unplaced && section.issuer.is_some());
    let token = match (&section.token_url, base) {
        (Some(url), _) => endpoint(&path("token_url"), url, problems),
        (None, Some(base)) => {
            endpoint(&path("base_url"), &format!("{}/token", base.trim_end_matches('/')), problems)
        }
        (None, None) if discovery => None,
        (None, None) => {
            problems.push(Problem::new(
                path("token_url"),
                "is required, or `base_url`, or an `issuer` that says where it is",
            ));
            None
        }
    };
    if discovery {
        match &section.issuer {
            Some(issuer) => drop(endpoint(&path("issuer"), issuer, problems)),
            None => {
                problems.push(Problem::new(path("discovery"), "needs an `issuer`, which is asked"));
            }
        }
    }
    let authorize = match (&section.authorize_url, base) {
        (Some(url), _) => endpoint(&path("authorize_url"), url, problems),
        (None, Some(base)) => {
            let url = format!("{}/authorize", base.trim_end_matches('/'));
            // Where the token endpoint is below it, it was told already.
            let mut told = Vec::new();
            let url = endpoint(&path("base_url"), &url, &mut told);
            if section.token_url.is_some() {
                problems.append(&mut told);
            }
            url
        }
        (None, None) => None,
    };
    let redirect = section.redirect_url.clone().filter(|url| !url.is_empty());
    // Apps register addresses of schemes of their own.
    let whole = |url: &String| Url::parse(url).is_ok_and(|url| url.fragment().is_none());
    if redirect.as_ref().is_some_and(|url| !whole(url)) {
        problems.push(Problem::new(
            path("redirect_url"),
            "must be an absolute URL without a fragment, as it is registered with the provider",
        ));
    }
    let mut optional = |key: &str, url: &Option<String>| {
        url.as_ref().and_then(|url| endpoint(&path(key), url, problems))
    };
    let revoke = optional("revoke_url", &section.revoke_url);
    let keys = optional("jwks_url", &section.jwks_url);
    if keys.is_some() && section.issuer.is_none() {
        problems.push(Problem::new(
            path("jwks_url"),
            "needs an `issuer`: whose keys they are, and who must have signed",
        ));
    }
    let endpoints = Endpoints { token, authorize, revoke, keys, ..Endpoints::default() };
    Urls { endpoints, discovery, redirect }
}

/// Rules that match what they do not mean.
fn vague_rules(
    section: &file::ProviderSection,
    path: &impl Fn(&str) -> String,
    problems: &mut Vec<Problem>,
) {
    for (index, rule) in section.error_map.iter().enumerate() {
        let empty = |text: &Option<String>| text.as_deref().is_none_or(str::is_empty);
        let vague = empty(&rule.code) && empty(&rule.text);
        if vague && (rule.status.is_none() || matches!(rule.means, file::Meaning::Reauth)) {
            problems.push(Problem::new(
                path(&format!("error_map.{index}")),
                "matches too much: name a `code` or a `text` (a `status` alone is enough only where \
                 no grant dies of it)",
            ));
        }
    }
}

fn habits(section: &file::ProviderSection) -> Habits {
    let defaults = Habits::default();
    let span = |span: Option<file::Span>, default| span.map_or(default, |span| span.0);
    Habits {
        listen_max: span(section.listen_max, defaults.listen_max),
        single_use: section.refresh_tokens.map_or(defaults.single_use, |kind| match kind {
            file::RefreshTokens::SingleUse => true,
            file::RefreshTokens::Reusable => false,
        }),
        replay: replay(section),
        settled_statuses: section.settled_statuses.clone().unwrap_or(defaults.settled_statuses),
        keep_warm_every: match section.keep_warm_every {
            Some(every) => Some(every.0).filter(|every| !every.is_zero()),
            None => defaults.keep_warm_every,
        },
        resends: section.resend.map_or(defaults.resends, |resend| match resend {
            file::Resend::WhenNeeded => true,
            file::Resend::Never => false,
        }),
        resend_rate: section.resend_rate.unwrap_or(defaults.resend_rate),
        rate: section.rate.unwrap_or(defaults.rate),
        concurrency: section.concurrency.map_or(defaults.concurrency, usize::from),
        retry_after_max: span(section.retry_after_max, defaults.retry_after_max),
    }
}

/// The window in which a spent refresh token works, by its name of today or by the older one.
fn replay(section: &file::ProviderSection) -> Option<Replay> {
    let older =
        |within: file::Span| file::Replay { within, again: file::Again::default(), early: false };
    let written = section.replay.or_else(|| section.reuse_grace.map(older))?;
    let again = match written.again {
        file::Again::Same => Again::Same,
        file::Again::Both => Again::Both,
        file::Again::OlderDies => Again::OlderDies,
    };
    let (within, early) = (written.within.0, written.early);
    (!within.is_zero()).then_some(Replay { within, again, early })
}

/// What of a window can never be used.
fn useless_window(own: &file::ProviderSection) -> Option<&'static str> {
    if own.replay.is_some() && own.reuse_grace.is_some() {
        return Some("and `reuse_grace`, its older name, are both set; keep `replay`");
    }
    let replay = own.replay?;
    if !replay.within.0.is_zero() && replay.within.0 < WINDOW_MIN {
        return Some("is over before anything can be presented again; leave it out");
    }
    let early = replay.early && replay.again == file::Again::OlderDies;
    early.then_some("`early` is never used where the older pair dies; leave it out")
}

/// A window that is used only where an answer broke off: what else may be under way is longer so.
pub(super) fn narrow_window(provider: &Provider, settle_margin: Duration) -> Option<Problem> {
    let Replay { within, again, early } = provider.habits.replay?;
    let settle = provider.habits.listen_max + settle_margin;
    let earliest = match again {
        Again::Same | Again::Both if early => return None,
        Again::Same | Again::Both => settle.saturating_sub(within),
        Again::OlderDies => settle,
    };
    (earliest > within * 4 / 5).then(|| {
        Problem::new(
            format!("providers.{}.replay", provider.id),
            "is used only where the answer was a success and broke off: after a connection that ended without \
             one the request may still be processed, and until that is over the window is, too",
        )
    })
}

/// Tokens travel only under TLS, or within this machine.
fn endpoint(path: &str, text: &str, problems: &mut Vec<Problem>) -> Option<String> {
    let Ok(url) = Url::parse(text) else {
        problems.push(Problem::new(
            path,
            "must be an absolute URL, such as https://example.com/oauth2",
        ));
        return None;
    };
    if !is_private(&url) {
        problems.push(Problem::new(path, "must begin with https:// (http:// only for loopback)"));
        return None;
    }
    if url.fragment().is_some() {
        problems.push(Problem::new(path, "must have no fragment (RFC 6749 section 3.2)"));
        return None;
    }
    if !url.username().is_empty() || url.password().is_some() {
        problems.push(Problem::new(path, "must hold no user or password"));
        return None;
    }
    Some(url.into())
}

fn rule(rule: &file::Rule) -> Rule {
    Rule {
        status: rule.status,
        code: rule.code.clone(),
        text: rule.text.clone(),
        meaning: match rule.means {
            file::Meaning::Reauth => Meaning::Reauth,
            file::Meaning::Client => Meaning::Client,
            file::Meaning::Unavailable => Meaning::Unavailable,
            file::Meaning::Conflict => Meaning::Conflict,
            file::Meaning::RateLimited => Meaning::RateLimited,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::endpoint::Disposition::{self, NotProcessed, Refused};
    use crate::broker::model::{DoubtKind, Reason};
    use crate::config::file::{Profile, ProviderSection};
    use crate::config::profile::{profile, profile_names};
    use crate::upstream::reply::{Raw, judge, tests::provider};

    /// (status, body, reason, disposition), case by case of the document.
    const KROGER: [(u16, &str, Reason, Disposition); 9] = [
        (
            400,
            r#"{"error":"invalid_request","error_description":"invalid refresh_token"}"#,
            Reason::GrantReauthRequired,
            Refused,
        ),
        (
            400,
            r#"{"errors":"Missing/Invalid Refresh Token"}"#,
            Reason::GrantReauthRequired,
            Refused,
        ),
        (
            400,
            r#"{"error":"unauthorized","error_description":"invalid credentials"}"#,
            Reason::ClientCredentialsRejected,
            NotProcessed,
        ),
        (
            400,
            r#"{"error":"invalid_request","error_description":"invalid code"}"#,
            Reason::ProviderUnrecognizedError,
            NotProcessed,
        ),
        (
            400,
            r#"{"error":"invalid_request","error_description":"The redirect_uri did not match the registered redirect_uri for this application"}"#,
            Reason::ProviderUnrecognizedError,
            NotProcessed,
        ),
        (
            400,
            r#"{"error":"invalid_request","error_description":"The resource owner denied the request"}"#,
            Reason::ProviderUnrecognizedError,
            NotProcessed,
        ),
        (
            400,
            r#"{"error":"unsupported_grant_type","error_description":"invalid grant_type"}"#,
            Reason::ClientNotAuthorized,
            NotProcessed,
        ),
        (
            400,
            r#"{"error":"invalid_scope","error_description":"invalid scope"}"#,
            Reason::ScopeNotGranted,
            NotProcessed,
        ),
        (
            500,
            r#"{"errors":{"reason":"Internal server error","code":"Auth-4xxx-xxx","timestamp":1564159296910}}"#,
            Reason::RefreshOutcomeUnknown,
            Disposition::Unknown(DoubtKind::Answered),
        ),
    ];

    #[test]
    fn krogers_own_failures_mean_what_its_document_says() {
        let mut provider = provider();
        let rules = filled(&of(Profile::Kroger)).error_map.iter().map(rule).collect();
        provider.error_map = ErrorMap::new(rules);
        for (status, body, reason, disposition) in KROGER {
            let raw = Raw::answered(status, body.as_bytes());
            let failure = judge(&provider, &raw).issued.unwrap_err();
            assert_eq!((failure.reason, failure.disposition), (reason, disposition), "{body}");
        }
    }

    fn of(profile: Profile) -> ProviderSection {
        ProviderSection { profile, ..ProviderSection::default() }
    }

    #[test]
    fn every_profile_can_be_read_and_the_generic_one_says_everything() {
        for name in profile_names() {
            let parsed: ProviderSection = serde_saphyr::from_str(profile(name).unwrap()).unwrap();
            assert!(parsed.client_id.is_none() && parsed.client_secret.is_none(), "{name}");
        }
        assert_eq!(habits(&filled(&of(Profile::Generic))), Habits::default());
        let kroger = filled(&of(Profile::Kroger));
        assert_eq!(kroger.error_map.len(), 3);
        assert_eq!(kroger.listen_max, filled(&of(Profile::Generic)).listen_max);
    }

    #[test]
    fn a_window_is_what_its_provider_documents_unless_one_is_written() {
        let of = |yaml: &str| {
            let own: ProviderSection = serde_saphyr::from_str(yaml).unwrap();
            (useless_window(&own).is_some(), replay(&filled(&own)).map(|it| (it.within, it.again)))
        };
        let s = Duration::from_secs;
        for (yaml, useless, window) in [
            ("{profile: generic}", false, None),
            ("{profile: okta}", false, Some((s(30), Again::OlderDies))),
            ("{profile: okta, replay: {within: 0s}}", false, None),
            ("{profile: okta, reuse_grace: 10s}", false, Some((s(10), Again::OlderDies))),
            ("{replay: {within: 1m, again: both}}", false, Some((s(60), Again::Both))),
            ("{replay: {within: 1s}}", true, Some((s(1), Again::OlderDies))),
            ("{replay: {within: 30s, early: true}}", true, Some((s(30), Again::OlderDies))),
            ("{replay: {within: 30s}, reuse_grace: 30s}", true, Some((s(30), Again::OlderDies))),
        ] {
            assert_eq!(of(yaml), (useless, window), "{yaml}");
        }
    }

    #[test]
    fn what_is_configured_stands_above_the_profile() {
        let own: ProviderSection = serde_saphyr::from_str(
            "{profile: kroger, keep_warm_every: 0s, error_map: [{code: gone, means: reauth}]}",
        )
        .unwrap();
        let filled = filled(&own);
        assert_eq!(filled.error_map.len(), 4);
        assert_eq!(filled.error_map[0].code.as_deref(), Some("gone"), "its own rules come first");
        assert_eq!(habits(&filled).keep_warm_every, None);
    }
}
