//! Advice: what people do about each reason. These texts name commands and settings; the model does
//! not.

use crate::broker::model::Reason;

/// What it means and what to do, in one sentence for people.
pub fn advice(reason: Reason) -> &'static str {
    match reason {
        Reason::GrantReauthRequired => {
            "the provider refused the refresh token for good; have the person consent again, \
             or import a new refresh token with `token-broker grant import`"
        }
        Reason::GrantInteractionRequired => {
            "the provider wants the person to sign in again; enrol or import the grant anew"
        }
        Reason::GrantRefreshTokenLost => {
            "the refresh token is lost: the provider had spent it and its answer with the new \
             one never arrived, or an operator gave it up; have the person consent again, or \
             import a new refresh token"
        }
        Reason::GrantRefreshTokenExpired => {
            "the refresh token is past its end; have the person consent again, or import a \
             new refresh token"
        }
        Reason::GrantNotRefreshable => {
            "there is no refresh token; import one with `token-broker grant import`"
        }
        Reason::GrantRevoked => {
            "an operator took it back at the provider (`token-broker grant revoke`); have the person \
             consent again with `token-broker grant enroll`"
        }
        Reason::GrantRefusedAlone => {
            "the provider refuses this grant again and again while it serves others of the same client; \
             have the person consent again, or look at what the provider says of it. It is tried once a \
             day, and now with `token-broker grant resolve`"
        }
        Reason::ScopeNotGranted => {
            "the provider refused the scopes: the grant, or our client, does not cover them"
        }
        Reason::ResourceNotAllowed => "the provider refused the resource that was asked for",
        Reason::ProviderUnreachable => {
            "the provider could not be reached and nothing was sent; it is tried again. Look at its \
             address, the network and, for TLS, at whom this machine trusts"
        }
        Reason::ProviderRateLimited => {
            "the rate limit is reached, the provider's or our `rate` for it; it is tried again later"
        }
        Reason::ProviderUnavailable => {
            "the provider is unavailable; nothing is lost, and it is tried again"
        }
        Reason::ProviderConflict => "the provider saw concurrent requests; it is tried again",
        Reason::ProviderUnrecognizedError => {
            "the provider refused in a way that is not known; no grant is ended by that, and \
             it is tried again; say what it means in `error_map` of the provider"
        }
        Reason::ProviderRefusesMany => {
            "the provider refused it together with many other grants, or before anything succeeded \
             as our changed client: that is not believed yet; it is presented again by itself, and consenting again works at once; \
             `token-broker provider release --believe` says that all of them are dead"
        }
        Reason::ProviderReplyIncomplete => {
            "the provider's answer held a new refresh token, which is kept, and no access token \
             that can be read; it is asked again, ever more slowly; `token-broker grant show` \
             tells what it said"
        }
        Reason::ProviderEndpointMisconfigured => {
            "this is not a token endpoint; check `base_url` or `token_url` of the provider"
        }
        Reason::ClientCredentialsRejected => {
            "the provider refused our client id or secret; check `client_id`, \
             `client_secret_file`, `client_auth` and `basic_encoding` of the provider"
        }
        Reason::ClientNotAuthorized => {
            "the provider does not allow our client this; change the client's registration \
             there"
        }
        Reason::ClientMisconfigured => "the provider refused our client's proof; check the clock",
        Reason::RefreshOutcomeUnknown => {
            "a refresh was sent and got no definite answer, so the refresh token may be spent; \
             it is presented again when nothing can be lost by that, as `token-broker grant \
             show` says, or when you say so with `token-broker grant resolve`"
        }
        Reason::RefreshReplyUnreadable => {
            "the provider answered with success but without a token that can be read, so the \
             refresh token may be spent; it is presented again when nothing can be lost by \
             that, as `token-broker grant show` says"
        }
        Reason::StoreUnavailable => "the token store did not take the new pair yet",
    }
}
