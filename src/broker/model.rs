//! What a grant is, and what is known of its provider. Pure data and its rules; names nothing else of the domain.

pub mod answer;
pub mod client;
pub mod descriptor;
pub mod enrolment;
pub mod evidence;
pub mod generation;
pub mod grant;
pub mod id;
pub mod intent;
pub mod reason;
pub mod standing;
pub mod token;

pub use answer::{Answer, Cause};
pub use client::ClientFingerprint;
pub use descriptor::{Descriptor, GrantKind};
pub use enrolment::{
    ENROLMENT_KEPT, ENROLMENT_LIFE, Ending, Enrolment, EnrolmentLimits, PageTerms,
};
pub use evidence::{Evidence, Hold, Millis, Piece, Reading};
pub use generation::{Fence, Generation, Position};
pub use grant::Grant;
pub use id::{GrantId, ProviderId};
pub use intent::{Doubt, DoubtKind, Intent, Owner};
pub use reason::Reason;
pub use standing::{Standing, Verdict};
pub use token::{Pair, Token};
