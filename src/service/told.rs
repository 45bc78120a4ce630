//! What answers say of grants, for the audit log.

use crate::proto;

/// Of which grant an answer is, and where that stands then.
#[derive(Debug, Clone, Default)]
pub(super) struct Told {
    pub(super) grant: String,
    pub(super) provider: String,
    pub(super) generation: Option<u64>,
    pub(super) fingerprint: String,
}

/// An answer of which something is written down.
pub(super) trait Tells {
    /// What; `None`: that was done where more was known.
    fn told(&self) -> Option<Told>;
}

macro_rules! tells {
    ($told:expr; $($answer:ty),* $(,)?) => {
        $(impl Tells for $answer {
            fn told(&self) -> Option<Told> {
                let told: fn(&Self) -> Option<Told> = $told;
                told(self)
            }
        })*
    };
}

tells!(
    |_| None;
    proto::GetTokenResponse,
    proto::ForceRefreshResponse,
);
tells!(
    |answer| Some(answer.grant.as_ref().map(of_grant).unwrap_or_default());
    proto::CompleteEnrollmentResponse,
    proto::ImportGrantResponse,
    proto::CreateGrantResponse,
    proto::GetGrantResponse,
    proto::UpdateGrantResponse,
    proto::RotateGrantResponse,
    proto::RevokeGrantResponse,
    proto::DisableGrantResponse,
    proto::EnableGrantResponse,
    proto::ResolveGrantResponse,
);
tells!(
    |answer| Some(answer.enrollment.as_ref().map(of_enrolment).unwrap_or_default());
    proto::GetEnrollmentResponse,
    proto::CancelEnrollmentResponse,
);
// What the request said is all that there is to say.
tells!(
    |_| Some(Told::default());
    proto::StartEnrollmentResponse,
    proto::DeleteGrantResponse,
    proto::ListGrantsResponse,
    proto::ListProvidersResponse,
    proto::GetBrokerStatusResponse,
    proto::ConfirmEmptyStoreResponse,
    proto::ReleaseProviderResponse,
    proto::RewrapKeysResponse,
);

/// Streams tell what they send.
impl<T> Tells for std::pin::Pin<Box<T>>
where
    T: ?Sized,
{
    fn told(&self) -> Option<Told> {
        Some(Told::default())
    }
}

fn of_grant(grant: &proto::Grant) -> Told {
    Told {
        grant: grant.grant_id.clone(),
        provider: grant.provider_id.clone(),
        generation: u64::try_from(grant.generation).ok(),
        fingerprint: grant.token_fingerprint.clone(),
    }
}

fn of_enrolment(enrolment: &proto::Enrollment) -> Told {
    let (grant, provider) = (enrolment.grant_id.clone(), enrolment.provider_id.clone());
    Told { grant, provider, ..Told::default() }
}
