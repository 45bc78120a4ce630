//! Reasons: why the provider's side failed, for programs and for people.

/// Why the provider's side failed; the names are those of `ErrorReason` in the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the contract documents each value")]
pub enum Reason {
    GrantReauthRequired,
    GrantInteractionRequired,
    GrantRefreshTokenLost,
    GrantRefreshTokenExpired,
    GrantNotRefreshable,
    ScopeNotGranted,
    ResourceNotAllowed,
    ProviderUnreachable,
    ProviderRateLimited,
    ProviderUnavailable,
    ProviderConflict,
    ProviderUnrecognizedError,
    ProviderRefusesMany,
    ProviderEndpointMisconfigured,
    ClientCredentialsRejected,
    ClientNotAuthorized,
    ClientMisconfigured,
    RefreshOutcomeUnknown,
    RefreshReplyUnreadable,
    StoreUnavailable,
}

impl Reason {
    /// All values, for tables and tests.
    pub const ALL: [Self; 20] = [
        Self::GrantReauthRequired,
        Self::GrantInteractionRequired,
        Self::GrantRefreshTokenLost,
        Self::GrantRefreshTokenExpired,
        Self::GrantNotRefreshable,
        Self::ScopeNotGranted,
        Self::ResourceNotAllowed,
        Self::ProviderUnreachable,
        Self::ProviderRateLimited,
        Self::ProviderUnavailable,
        Self::ProviderConflict,
        Self::ProviderUnrecognizedError,
        Self::ProviderRefusesMany,
        Self::ProviderEndpointMisconfigured,
        Self::ClientCredentialsRejected,
        Self::ClientNotAuthorized,
        Self::ClientMisconfigured,
        Self::RefreshOutcomeUnknown,
        Self::RefreshReplyUnreadable,
        Self::StoreUnavailable,
    ];

    /// Stable name: on the wire, in stored records, logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::GrantReauthRequired => "GRANT_REAUTH_REQUIRED",
            Self::GrantInteractionRequired => "GRANT_INTERACTION_REQUIRED",
            Self::GrantRefreshTokenLost => "GRANT_REFRESH_TOKEN_LOST",
            Self::GrantRefreshTokenExpired => "GRANT_REFRESH_TOKEN_EXPIRED",
            Self::GrantNotRefreshable => "GRANT_NOT_REFRESHABLE",
            Self::ScopeNotGranted => "SCOPE_NOT_GRANTED",
            Self::ResourceNotAllowed => "RESOURCE_NOT_ALLOWED",
            Self::ProviderUnreachable => "PROVIDER_UNREACHABLE",
            Self::ProviderRateLimited => "PROVIDER_RATE_LIMITED",
            Self::ProviderUnavailable => "PROVIDER_UNAVAILABLE",
            Self::ProviderConflict => "PROVIDER_CONFLICT",
            Self::ProviderUnrecognizedError => "PROVIDER_UNRECOGNIZED_ERROR",
            Self::ProviderRefusesMany => "PROVIDER_REFUSES_MANY",
            Self::ProviderEndpointMisconfigured => "PROVIDER_ENDPOINT_MISCONFIGURED",
            Self::ClientCredentialsRejected => "CLIENT_CREDENTIALS_REJECTED",
            Self::ClientNotAuthorized => "CLIENT_NOT_AUTHORIZED",
            Self::ClientMisconfigured => "CLIENT_MISCONFIGURED",
            Self::RefreshOutcomeUnknown => "REFRESH_OUTCOME_UNKNOWN",
            Self::RefreshReplyUnreadable => "REFRESH_REPLY_UNREADABLE",
            Self::StoreUnavailable => "STORE_UNAVAILABLE",
        }
    }

    /// The value of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.name() == name)
    }

    /// What it means and what to do, in one sentence for people.
    pub fn advice(self) -> &'static str {
        match self {
            Self::GrantReauthRequired => {
                "the provider refused the refresh token for good; have the person consent again, \
                 or import a new refresh token with `token-broker grant import`"
            }
            Self::GrantInteractionRequired => {
                "the provider wants the person to sign in again; enrol or import the grant anew"
            }
            Self::GrantRefreshTokenLost => {
                "the refresh token is lost: the provider had spent it and its answer with the new \
                 one never arrived, or an operator gave it up; have the person consent again, or \
                 import a new refresh token"
            }
            Self::GrantRefreshTokenExpired => {
                "the refresh token is past its end; have the person consent again, or import a \
                 new refresh token"
            }
            Self::GrantNotRefreshable => {
                "there is no refresh token; import one with `token-broker grant import`"
            }
            Self::ScopeNotGranted => {
                "the provider refused the scopes: the grant, or our client, does not cover them"
            }
            Self::ResourceNotAllowed => "the provider refused the resource that was asked for",
            Self::ProviderUnreachable => {
                "the provider could not be reached and nothing was sent; it is tried again"
            }
            Self::ProviderRateLimited => "the provider limits our rate; it is tried again later",
            Self::ProviderUnavailable => {
                "the provider is unavailable; nothing is lost, and it is tried again"
            }
            Self::ProviderConflict => "the provider saw concurrent requests; it is tried again",
            Self::ProviderUnrecognizedError => {
                "the provider refused in a way that is not known; no grant is ended by that, and \
                 it is tried again; say what it means in `error_map` of the provider"
            }
            Self::ProviderRefusesMany => {
                "the provider refuses many grants at once, so the trouble is taken for its own; \
                 one grant at a time is tried until one succeeds, and those refused again after \
                 that need a new consent"
            }
            Self::ProviderEndpointMisconfigured => {
                "this is not a token endpoint; check `base_url` or `token_url` of the provider"
            }
            Self::ClientCredentialsRejected => {
                "the provider refused our client id or secret; check `client_id`, \
                 `client_secret_file`, `client_auth` and `basic_encoding` of the provider"
            }
            Self::ClientNotAuthorized => {
                "the provider does not allow our client this; change the client's registration \
                 there"
            }
            Self::ClientMisconfigured => "the provider refused our client's proof; check the clock",
            Self::RefreshOutcomeUnknown => {
                "a refresh was sent and got no definite answer, so the refresh token may be spent; \
                 it is presented again when nothing can be lost by that, as `token-broker grant \
                 show` says, or when you say so with `token-broker grant resolve`"
            }
            Self::RefreshReplyUnreadable => {
                "the provider answered with success but without a token that can be read, so the \
                 refresh token may be spent; it is presented again when nothing can be lost by \
                 that, as `token-broker grant show` says"
            }
            Self::StoreUnavailable => "the token store did not take the new pair yet",
        }
    }
}
