//! What callers may be allowed to do: each method of the contract has its own name.

use std::fmt;

/// An action, as rules name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Take a token.
    GetToken,
    /// Follow a token.
    WatchToken,
    /// Have a rejected token replaced: it costs a rotation.
    ForceRefresh,
    /// Begin, end, look at and cancel enrolments.
    EnrollGrant,
    /// Store a refresh token.
    ImportGrant,
    /// Make a grant without one.
    CreateGrant,
    /// Look at a grant.
    GetGrant,
    /// See a grant in lists.
    ListGrants,
    /// Change what is said of a grant.
    UpdateGrant,
    /// Refresh a grant.
    RotateGrant,
    /// Take its tokens back.
    RevokeGrant,
    /// Delete it.
    DeleteGrant,
    /// Switch it off.
    DisableGrant,
    /// Switch it on.
    EnableGrant,
    /// Decide about a refresh token in doubt.
    ResolveGrant,
    /// Look at providers.
    ListProviders,
    /// Look at the broker.
    GetBrokerStatus,
    /// Say that the store is as it is meant to be.
    ConfirmStore,
    /// End the hold of a provider.
    ReleaseProvider,
    /// Seal all records anew.
    RewrapKeys,
}

/// What stands for all actions of operators.
pub(super) const ALL_OF_OPERATORS: &str = "admin.*";

impl Action {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::GetToken,
        Self::WatchToken,
        Self::ForceRefresh,
        Self::EnrollGrant,
        Self::ImportGrant,
        Self::CreateGrant,
        Self::GetGrant,
        Self::ListGrants,
        Self::UpdateGrant,
        Self::RotateGrant,
        Self::RevokeGrant,
        Self::DeleteGrant,
        Self::DisableGrant,
        Self::EnableGrant,
        Self::ResolveGrant,
        Self::ListProviders,
        Self::GetBrokerStatus,
        Self::ConfirmStore,
        Self::ReleaseProvider,
        Self::RewrapKeys,
    ];

    /// Its name in rules.
    pub fn name(self) -> &'static str {
        match self {
            Self::GetToken => "get_token",
            Self::WatchToken => "watch_token",
            Self::ForceRefresh => "force_refresh",
            Self::EnrollGrant => "admin.enroll",
            Self::ImportGrant => "admin.import",
            Self::CreateGrant => "admin.create",
            Self::GetGrant => "admin.get",
            Self::ListGrants => "admin.list",
            Self::UpdateGrant => "admin.update",
            Self::RotateGrant => "admin.rotate",
            Self::RevokeGrant => "admin.revoke",
            Self::DeleteGrant => "admin.delete",
            Self::DisableGrant => "admin.disable",
            Self::EnableGrant => "admin.enable",
            Self::ResolveGrant => "admin.resolve",
            Self::ListProviders => "admin.providers",
            Self::GetBrokerStatus => "admin.status",
            Self::ConfirmStore => "admin.confirm_store",
            Self::ReleaseProvider => "admin.release_provider",
            Self::RewrapKeys => "admin.rewrap",
        }
    }

    /// The action of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.name() == name)
    }

    /// It makes grants, or makes them anew.
    pub fn makes_grants(self) -> bool {
        matches!(self, Self::EnrollGrant | Self::ImportGrant | Self::CreateGrant)
    }

    /// It is for operators.
    pub fn is_of_operators(self) -> bool {
        self.name().starts_with("admin.")
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
