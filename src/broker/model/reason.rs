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
    GrantRevoked,
    GrantRefusedAlone,
    ScopeNotGranted,
    ResourceNotAllowed,
    ProviderUnreachable,
    ProviderRateLimited,
    ProviderUnavailable,
    ProviderConflict,
    ProviderUnrecognizedError,
    ProviderRefusesMany,
    ProviderReplyIncomplete,
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
    pub const ALL: [Self; 23] = [
        Self::GrantReauthRequired,
        Self::GrantInteractionRequired,
        Self::GrantRefreshTokenLost,
        Self::GrantRefreshTokenExpired,
        Self::GrantNotRefreshable,
        Self::GrantRevoked,
        Self::GrantRefusedAlone,
        Self::ScopeNotGranted,
        Self::ResourceNotAllowed,
        Self::ProviderUnreachable,
        Self::ProviderRateLimited,
        Self::ProviderUnavailable,
        Self::ProviderConflict,
        Self::ProviderUnrecognizedError,
        Self::ProviderRefusesMany,
        Self::ProviderReplyIncomplete,
        Self::ProviderEndpointMisconfigured,
        Self::ClientCredentialsRejected,
        Self::ClientNotAuthorized,
        Self::ClientMisconfigured,
        Self::RefreshOutcomeUnknown,
        Self::RefreshReplyUnreadable,
        Self::StoreUnavailable,
    ];

    /// What we prove ourselves by is not taken.
    pub fn is_of_client(self) -> bool {
        matches!(
            self,
            Self::ClientCredentialsRejected | Self::ClientNotAuthorized | Self::ClientMisconfigured
        )
    }

    /// Stable name: on the wire, in stored records, logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::GrantReauthRequired => "GRANT_REAUTH_REQUIRED",
            Self::GrantInteractionRequired => "GRANT_INTERACTION_REQUIRED",
            Self::GrantRefreshTokenLost => "GRANT_REFRESH_TOKEN_LOST",
            Self::GrantRefreshTokenExpired => "GRANT_REFRESH_TOKEN_EXPIRED",
            Self::GrantNotRefreshable => "GRANT_NOT_REFRESHABLE",
            Self::GrantRevoked => "GRANT_REVOKED",
            Self::GrantRefusedAlone => "GRANT_REFUSED_ALONE",
            Self::ScopeNotGranted => "SCOPE_NOT_GRANTED",
            Self::ResourceNotAllowed => "RESOURCE_NOT_ALLOWED",
            Self::ProviderUnreachable => "PROVIDER_UNREACHABLE",
            Self::ProviderRateLimited => "PROVIDER_RATE_LIMITED",
            Self::ProviderUnavailable => "PROVIDER_UNAVAILABLE",
            Self::ProviderConflict => "PROVIDER_CONFLICT",
            Self::ProviderUnrecognizedError => "PROVIDER_UNRECOGNIZED_ERROR",
            Self::ProviderRefusesMany => "PROVIDER_REFUSES_MANY",
            Self::ProviderReplyIncomplete => "PROVIDER_REPLY_INCOMPLETE",
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
}
