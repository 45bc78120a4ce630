//! Whose consent a grant stands on; and who the client is where it signs that itself.

use serde_json::json;
use token_broker::client::CallError;
use token_broker::proto::StartEnrollmentRequest;

use crate::support::authority::Authority;
use crate::support::consent::{World, answer};
use crate::support::process::Program;

const REGISTERED: (&str, &str) = ("REDIRECT_URL", "http://localhost:1/back");

struct Asking {
    world: World,
    scopes: Vec<String>,
}

impl Asking {
    /// Of a provider that signs who people are.
    async fn signed() -> Self {
        let authority = Authority::new();
        let base = authority.serve().await;
        authority.signs();
        authority.document(json!({
            "issuer": base, "token_endpoint": format!("{base}/token"),
            "authorization_endpoint": format!("{base}/authorize"),
            "jwks_uri": format!("{base}/keys"), "revocation_endpoint": format!("{base}/revoke"),
        }));
        let issuer = base.clone();
        let more = [
            REGISTERED,
            ("TOKEN_BROKER__PROVIDERS__DEFAULT__ISSUER", issuer.as_str()),
            ("TOKEN_BROKER__PROVIDERS__DEFAULT__DISCOVERY", "true"),
        ];
        let world = World::before(authority, base, &more).await;
        Self { world, scopes: vec!["openid".to_owned()] }
    }

    /// A person consents for kroger/alice.
    async fn consent(&mut self, person: &str, other_account: bool) -> Result<(), CallError> {
        let request = StartEnrollmentRequest {
            grant_id: "kroger/alice".to_owned(),
            provider_id: "default".to_owned(),
            scopes: self.scopes.clone(),
            allow_other_account: other_account,
            ..StartEnrollmentRequest::default()
        };
        let World { client, authority, .. } = &mut self.world;
        let asked = client.admin.start_enrollment(request).await?.into_inner();
        let address = authority.answer(person, &asked.authorization_url);
        client.admin.complete_enrollment(answer(&address)).await?;
        Ok(())
    }

    /// The consent of this person is what the grant stands on: its refresh token is good.
    fn stands_on(&self, person: &str) {
        std::thread::sleep(std::time::Duration::from_millis(250));
        let before = self.world.authority.head(person);
        let (ok, _, errors) = self.world.program.cli(&["refresh", "kroger/alice"]);
        assert!(ok, "{errors}");
        assert_ne!(self.world.authority.head(person), before, "it was {person}'s that was spent");
    }

    /// The same, whoever says whose consent it is.
    async fn only_alice(&mut self) {
        self.consent("alice", false).await.unwrap();
        self.stands_on("alice");
        self.consent("alice", false).await.unwrap();
        self.stands_on("alice");
        let error = self.consent("mallory", false).await.unwrap_err();
        assert!(format!("{error:?}").contains("EnrollmentOtherAccount"), "{error:?}");
        self.stands_on("alice");
        self.consent("mallory", true).await.unwrap();
        self.stands_on("mallory");
        self.world.authority.audit();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_consent_of_another_person_is_not_taken() {
    let mut asking = Asking::signed().await;
    asking.only_alice().await;
    // Nothing of them lies open.
    let World { program, dir, .. } = asking.world;
    let (_, log) = program.stop();
    let file = std::fs::read(dir.path().join("store.redb")).unwrap();
    assert!(!log.contains("mallory") && !file.windows(7).any(|window| window == b"mallory"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_of_the_reply_says_it_where_nothing_is_signed() {
    let field = ("TOKEN_BROKER__PROVIDERS__DEFAULT__ACCOUNT_FIELD", "person.id");
    let world = World::new(&[REGISTERED, field]).await;
    Asking { world, scopes: Vec::new() }.only_alice().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_of_a_person_is_checked() {
    let mut asking = Asking::signed().await;
    asking.consent("alice", false).await.unwrap();
    for lie in [
        json!({"nonce": "another"}),
        json!({"aud": "another"}),
        json!({"iss": "https://another.example"}),
        json!({"exp": 1}),
    ] {
        asking.world.authority.lies(&lie);
        let error = asking.consent("alice", false).await.unwrap_err();
        assert!(format!("{error:?}").contains("EnrollmentAccountUnproven"), "{lie}: {error:?}");
        asking.stands_on_nothing_new();
    }
    asking.world.authority.lies(&json!({}));
    // The provider has a new key since it was asked.
    asking.world.authority.signs();
    asking.consent("alice", false).await.unwrap();
    asking.stands_on("alice");
    // And another one, under the same name.
    asking.world.authority.signs_anew_under_the_old_name();
    asking.consent("alice", false).await.unwrap();
    asking.stands_on("alice");
    asking.world.authority.audit();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_unwanted_consent_brought_is_revoked_where_that_ends_nothing_else() {
    let mut asking = Asking::signed().await;
    let authority = asking.world.authority.clone();
    let taken_back = async |wanted: usize| {
        for _ in 0..100 {
            if authority.taken_back().len() == wanted {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        assert_eq!(authority.taken_back().len(), wanted);
    };
    // Nobody knows whose it is, and there is no other grant.
    authority.lies(&json!({"nonce": "another"}));
    assert!(asking.consent("alice", false).await.is_err());
    taken_back(1).await;
    authority.lies(&json!({}));
    asking.consent("alice", false).await.unwrap();
    // Another person than alice: it is not hers that is revoked.
    assert!(asking.consent("mallory", false).await.is_err());
    taken_back(2).await;
    // It may be alice's: at many providers all of hers would end.
    authority.lies(&json!({"nonce": "another"}));
    assert!(asking.consent("alice", false).await.is_err());
    asking.world.program.wait_for("is left to the provider");
    taken_back(2).await;
    authority.audit();
}

impl Asking {
    /// What was there before is served still.
    fn stands_on_nothing_new(&self) {
        let (ok, _, errors) = self.world.program.cli(&["get", "kroger/alice"]);
        assert!(ok, "{errors}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_signs_has_no_secret() {
    let authority = Authority::new();
    let base = authority.serve().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key.pem");
    std::fs::write(&file, authority.signed_client()).unwrap();
    let revoke = format!("{base}/revoke");
    let environment = [
        ("TOKEN_BROKER__STORE__URL", "memory:"),
        ("TOKEN_BROKER__PROVIDERS__DEFAULT__BASE_URL", base.as_str()),
        ("TOKEN_BROKER__PROVIDERS__DEFAULT__REVOKE_URL", &revoke),
        ("TOKEN_BROKER__PROVIDERS__DEFAULT__CLIENT_ID", "id"),
        ("TOKEN_BROKER__PROVIDERS__DEFAULT__CLIENT_AUTH", "private_key_jwt"),
        ("TOKEN_BROKER__PROVIDERS__DEFAULT__CLIENT_KEY_FILE", file.to_str().unwrap()),
    ];
    let program = Program::start(dir.path(), &["serve"], &environment);
    crate::herd::import(&program, dir.path(), "kroger/alice", &authority.consent("alice"));
    assert!(program.cli(&["grant", "create", "kroger/service", "--provider", "default"]).0);
    for command in [
        &["get", "kroger/alice"][..],
        &["get", "kroger/service"],
        &["grant", "rotate", "kroger/alice"],
        &["grant", "revoke", "kroger/alice"],
    ] {
        let (ok, _, errors) = program.cli(command);
        assert!(ok, "{errors}");
    }
    assert_eq!(authority.posts(), 3);
    authority.audit();
}
