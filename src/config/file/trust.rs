//! The sections that say who may call, what they may do, and what is written down of it.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::broker::model::EnrolmentLimits;

/// TLS of the API. The files are in PEM, and read again when they change.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "they are files, as those of other sections")]
pub(in crate::config) struct TlsSection {
    /// Our certificate, and those between it and whom clients trust.
    pub(in crate::config) certificate_file: PathBuf,
    /// Its key.
    pub(in crate::config) key_file: PathBuf,
    /// Who signs certificates of clients, which then prove who calls by the one URI in them
    /// (`spiffe://DOMAIN/PATH`). Left out: they are not asked for any.
    pub(in crate::config) client_ca_file: Option<PathBuf>,
}

/// How callers prove who they are.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Callers {
    /// Pods, by tokens of their service accounts.
    pub(in crate::config) kubernetes: Option<KubernetesSection>,
    /// How much each caller may take of each replica.
    pub(in crate::config) limits: LimitsSection,
    /// File with `NAME TOKEN` on each line: static tokens, for development and for callers outside of
    /// any cluster.
    pub(in crate::config) tokens_file: Option<PathBuf>,
}

/// How much each caller may take of each replica; 0: as much as it likes.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct LimitsSection {
    /// Calls in a second; as many may come at once, and evenly after that.
    #[schemars(range(max = 1_000_000))]
    pub(in crate::config) rate: u32,
    /// Calls at once.
    #[schemars(range(max = 1_000_000))]
    pub(in crate::config) concurrency: u32,
    /// Tokens of one grant that are replaced by `ForceRefresh` for one caller in an hour; as many may be at
    /// once, and evenly after that. What joins somebody else's, finds a newer token, or fails is not counted.
    #[schemars(range(max = 1_000_000))]
    pub(in crate::config) force_refreshes: u32,
}

impl Default for LimitsSection {
    fn default() -> Self {
        // Far above what services need, and far below what a replica bears.
        Self { rate: 10_000, concurrency: 1_000, force_refreshes: 30 }
    }
}

/// Tokens of Kubernetes service accounts, projected into pods for our audience.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct KubernetesSection {
    /// Who issues them, as `kubectl get --raw /.well-known/openid-configuration` says.
    pub(in crate::config) issuer: String,
    /// Whom they are for.
    pub(in crate::config) audience: String,
    /// File with the keys of the cluster (JWKS), instead of an address.
    pub(in crate::config) jwks_file: Option<PathBuf>,
    /// Where the cluster publishes them. Left out: where our own does, asked as our own service account.
    pub(in crate::config) jwks_url: Option<String>,
    /// Who signed the certificate there. Left out with `jwks_url`: whom the system trusts.
    pub(in crate::config) ca_file: Option<PathBuf>,
    /// The token to ask with. Left out with `jwks_url`: none.
    pub(in crate::config) token_file: Option<PathBuf>,
}

impl Default for KubernetesSection {
    fn default() -> Self {
        Self {
            issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
            audience: "token-broker".to_owned(),
            jwks_file: None,
            jwks_url: None,
            ca_file: None,
            token_file: None,
        }
    }
}

/// What callers may do.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct PolicySection {
    /// The policy file. What it does not allow is denied.
    pub(in crate::config) file: Option<PathBuf>,
}

/// How many enrolments may have been begun within twenty minutes, over all replicas: as long as what they
/// leave in the store is kept.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Enrollments {
    /// By one caller who has proven who it is; 0: as many as it likes.
    #[schemars(range(max = 1_000_000))]
    pub(in crate::config) per_caller: usize,
    /// For one grant.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(in crate::config) per_grant: usize,
    /// In all.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(in crate::config) in_all: usize,
}

impl Default for Enrollments {
    fn default() -> Self {
        let EnrolmentLimits { per_caller, per_grant, in_all } = EnrolmentLimits::default();
        Self { per_caller, per_grant, in_all }
    }
}

impl From<&Enrollments> for EnrolmentLimits {
    fn from(section: &Enrollments) -> Self {
        let Enrollments { per_caller, per_grant, in_all } = *section;
        Self { per_caller, per_grant, in_all }
    }
}

/// The audit log: a JSON line for each decision on a token or a grant, and for each act of the broker.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct AuditSection {
    /// `stdout`, or `file:` and a path. Left out: there is none.
    pub(in crate::config) sink: Option<String>,
    /// What changes a grant is not done unless it is written down first. Callers get tokens in any case.
    pub(in crate::config) required: bool,
}
