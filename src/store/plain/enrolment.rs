//! The stored forms of an enrolment under way, and of how it ended.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::broker::model::{Ending, Enrolment, GrantId, PageTerms, ProviderId};
use crate::clock::{from_unix_ms, unix_ms};
use crate::secret::{CodeVerifier, EnrolmentId, EnrolmentState, Nonce, UserCode};

/// An enrolment under way.
#[derive(Serialize, Deserialize)]
pub(crate) struct PlainEnrolment {
    id: String,
    state: String,
    verifier: Option<String>,
    nonce: Option<String>,
    grant: String,
    provider: String,
    scopes: Vec<String>,
    labels: BTreeMap<String, String>,
    redirect_uri: String,
    other_account: bool,
    page: Option<PlainPage>,
    expires_at: u64,
}

#[derive(Serialize, Deserialize)]
struct PlainPage {
    code: String,
    started_by: String,
}

impl From<&Enrolment> for PlainEnrolment {
    fn from(enrolment: &Enrolment) -> Self {
        Self {
            id: enrolment.id.expose().to_owned(),
            state: enrolment.state.expose().to_owned(),
            verifier: enrolment.verifier.as_ref().map(|verifier| verifier.expose().to_owned()),
            nonce: enrolment.nonce.as_ref().map(|nonce| nonce.expose().to_owned()),
            grant: enrolment.grant.to_string(),
            provider: enrolment.provider.to_string(),
            scopes: enrolment.scopes.clone(),
            labels: enrolment.labels.clone(),
            redirect_uri: enrolment.redirect_uri.clone(),
            other_account: enrolment.other_account,
            page: enrolment.page.as_ref().map(|page| PlainPage {
                code: page.code.expose().to_owned(),
                started_by: page.started_by.clone(),
            }),
            expires_at: unix_ms(enrolment.expires_at),
        }
    }
}

impl PlainEnrolment {
    /// `None`: it names no grant.
    pub(crate) fn enrolment(self) -> Option<Enrolment> {
        Some(Enrolment {
            id: EnrolmentId::new(self.id),
            state: EnrolmentState::new(self.state),
            verifier: self.verifier.map(CodeVerifier::new),
            nonce: self.nonce.map(Nonce::new),
            grant: GrantId::parse(&self.grant).ok()?,
            provider: ProviderId::new(&self.provider),
            scopes: self.scopes,
            labels: self.labels,
            redirect_uri: self.redirect_uri,
            other_account: self.other_account,
            page: self.page.map(|page| PageTerms {
                code: UserCode::new(page.code),
                started_by: page.started_by,
            }),
            expires_at: from_unix_ms(self.expires_at),
        })
    }
}

/// How an enrolment ended.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PlainEnding {
    Granted(String),
    Failed(String),
    Cancelled,
}

impl From<&Ending> for PlainEnding {
    fn from(ending: &Ending) -> Self {
        match ending {
            Ending::Granted(grant) => Self::Granted(grant.to_string()),
            Ending::Failed(why) => Self::Failed(why.clone()),
            Ending::Cancelled => Self::Cancelled,
        }
    }
}

impl PlainEnding {
    /// `None`: it names no grant.
    pub(crate) fn ending(self) -> Option<Ending> {
        Some(match self {
            Self::Granted(grant) => Ending::Granted(GrantId::parse(&grant).ok()?),
            Self::Failed(why) => Ending::Failed(why),
            Self::Cancelled => Ending::Cancelled,
        })
    }
}
