//! Where a person consents: the authorization endpoint, and the question as a URL. Pure.

use url::Url;

use crate::broker::endpoint::Question;
use crate::upstream::provider::Provider;

/// The URL at which the person is asked (RFC 6749 section 4.1.1, RFC 7636 section 4.3); `None`: the
/// provider has no authorization `endpoint`. Parameters that its URL has already stay.
pub(crate) fn authorization_url(
    provider: &Provider,
    endpoint: Option<&str>,
    question: &Question<'_>,
) -> Option<String> {
    let mut url = Url::parse(endpoint?).ok()?;
    {
        let mut pairs = url.query_pairs_mut();
        pairs.append_pair("response_type", "code");
        pairs.append_pair("client_id", &provider.client_id);
        pairs.append_pair("redirect_uri", question.redirect_uri);
        if !question.scopes.is_empty() {
            pairs.append_pair("scope", &question.scopes.join(" "));
        }
        pairs.append_pair("state", question.state.expose());
        if let Some(nonce) = question.nonce {
            pairs.append_pair("nonce", nonce.expose());
        }
        if let Some(verifier) = question.verifier {
            pairs.append_pair("code_challenge", &verifier.challenge());
            pairs.append_pair("code_challenge_method", "S256");
        }
        for (name, value) in &provider.authorize_parameters {
            pairs.append_pair(name, value);
        }
    }
    Some(url.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::{CodeVerifier, EnrolmentState};
    use crate::upstream::reply::tests::provider;

    #[test]
    fn a_question_as_a_url() {
        let provider = Provider {
            client_id: "my id".to_owned(),
            authorize_parameters: [("access_type".to_owned(), "offline".to_owned())].into(),
            ..provider()
        };
        let endpoint = "https://example.test/authorize?tenant=a%26b";
        // The vector of RFC 7636, appendix B.
        let verifier = CodeVerifier::new("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk");
        let question = Question {
            state: &EnrolmentState::new("s&t"),
            verifier: Some(&verifier),
            nonce: None,
            redirect_uri: "https://broker.example.com/cb?x=1",
            scopes: &["a".to_owned(), "b".to_owned()],
        };
        assert_eq!(
            authorization_url(&provider, Some(endpoint), &question).unwrap(),
            "https://example.test/authorize?tenant=a%26b&response_type=code&client_id=my+id\
             &redirect_uri=https%3A%2F%2Fbroker.example.com%2Fcb%3Fx%3D1&scope=a+b&state=s%26t\
             &code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM\
             &code_challenge_method=S256&access_type=offline"
        );
        assert!(authorization_url(&provider, None, &question).is_none());
    }
}
