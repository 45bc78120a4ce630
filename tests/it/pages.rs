//! The broker's own pages: what a person sees, and what nobody can do to them.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::ChildStderr;
use std::time::Duration;

use token_broker::proto::{
    CancelEnrollmentRequest, EnrollmentState, GetEnrollmentRequest, StartEnrollmentRequest,
    StartEnrollmentResponse,
};
use url::Url;

use crate::support::authority::{Fault, Way};
use crate::support::browser::{Browser, Page};
use crate::support::consent::{World, answer, enroll};
use crate::support::process::text;

const PAGES: (&str, &str) = ("TOKEN_BROKER__LISTEN__PAGES", "127.0.0.1:0");

async fn world() -> World {
    World::new(&[PAGES]).await
}

impl World {
    async fn ask_by_page(&mut self, id: &str) -> StartEnrollmentResponse {
        let request = StartEnrollmentRequest {
            grant_id: id.to_owned(),
            provider_id: "default".to_owned(),
            started_by: "ana@<laptop>".to_owned(),
            ..StartEnrollmentRequest::default()
        };
        self.client.admin.start_enrollment(request).await.unwrap().into_inner()
    }

    /// A person enters the code and consents; gives the address to which the provider sends them.
    fn consent(&self, browser: &Browser, asked: &StartEnrollmentResponse) -> String {
        self.authority.answer("alice", &begin(browser, asked))
    }

    async fn stands(&mut self, asked: &StartEnrollmentResponse) -> (EnrollmentState, String) {
        let request = GetEnrollmentRequest { enrollment_id: asked.enrollment_id.clone() };
        let shown = self.client.admin.get_enrollment(request).await.unwrap().into_inner();
        let shown = shown.enrollment.unwrap();
        (shown.state(), shown.failure)
    }
}

/// Reads until a line holds `part`.
fn until(told: &mut BufReader<ChildStderr>, part: &str) -> String {
    told.lines().map_while(Result::ok).find(|line| line.contains(part)).expect("it ended")
}

/// A person enters the code; gives the provider's question.
fn begin(browser: &Browser, asked: &StartEnrollmentResponse) -> String {
    let page = browser.open(&asked.start_url);
    assert_eq!(page.status, 200, "{page:?}");
    let page = browser.enter(&asked.start_url, &page, &asked.user_code);
    assert_eq!(page.title(), "Continue at the provider");
    page.link()
}

#[tokio::test(flavor = "multi_thread")]
async fn from_the_command_line_through_the_browser_to_a_token() {
    let world = world().await;
    // The only provider goes without saying.
    let (waits, mut told) = enroll(&world.program, &["kroger/alice"]);
    let url = until(&mut told, "http").trim().to_owned();
    let code = until(&mut told, "code").split_whitespace().last().unwrap().to_owned();
    until(&mut told, "waiting for the browser");
    let browser = Browser::new();
    let page = browser.open(&url);
    for shown in ["<b>kroger/alice</b>", "default", "ana@", "10 minutes"] {
        assert!(page.body.contains(shown), "{shown}: {}", page.body);
    }
    assert!(!page.body.contains(&code) && !page.body.contains("state="), "{}", page.body);
    let typed = code.to_lowercase().replace('-', " ");
    let page = browser.enter(&url, &page, &typed.replace(' ', "+"));
    let question = page.link();
    assert!(question.starts_with(&format!("{}/authorize?", world.base)), "{question}");
    until(&mut told, "code is entered");
    let callback = world.authority.answer("alice", &question);
    assert!(callback.starts_with(&format!("http://{}/oauth/callback?", world.program.pages)));
    let page = browser.open(&callback);
    assert_eq!((page.status, page.title()), (200, "Connected".to_owned()), "{page:?}");
    let output = waits.wait_with_output().unwrap();
    assert!(output.status.success() && text(&output.stdout).contains("kroger/alice"), "{output:?}");
    world.lives("kroger/alice");
    // Nothing of it is in the log.
    let World { authority, program, .. } = world;
    let (_, log) = program.stop();
    for secret in authority.secrets() {
        assert!(!log.contains(&secret));
    }
    for part in [&code, "state=", "code="] {
        assert!(!log.contains(part), "{part}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_is_bare_and_bolted() {
    let mut world = world().await;
    let asked = world.ask_by_page("kroger/alice").await;
    let browser = Browser::new();
    let base = format!("http://{}", world.program.pages);
    let ask = browser.open(&asked.start_url);
    assert!(ask.body.contains("ana@&lt;laptop&gt;"), "{}", ask.body);
    assert!(ask.head.contains("httponly; samesite=lax"), "{}", ask.head);
    let go = browser.enter(&asked.start_url, &ask, &asked.user_code);
    let markup = "%22%3E%3Cscript%3Ealert(1)%3C/script%3E";
    let state = Url::parse(&go.link()).unwrap();
    let state = state.query_pairs().find(|(name, _)| name == "state").unwrap().1.into_owned();
    let refused = browser.open(&format!(
        "{base}/oauth/callback?state={state}&error={markup}&error_description={markup}&iss={markup}\
         &error_uri={markup}"
    ));
    assert_eq!(refused.title(), "Not connected");
    assert!(refused.body.contains("Nothing was changed"), "{refused:?}");
    let pages = [
        ask,
        go,
        refused,
        browser.open(&format!("{base}/oauth/start?enrollment={markup}")),
        browser.open(&format!("{base}/oauth/callback?state={markup}&code={markup}")),
        browser.open(&format!("{base}/oauth/callback")),
        browser.open(&format!("{base}/{markup}")),
        browser.send(&format!("{base}/oauth/start?enrollment=x"), "code=1"),
    ];
    for page in &pages {
        for header in [
            "content-security-policy: default-src 'none'; style-src 'sha256-",
            "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
            "cache-control: no-store",
            "referrer-policy: no-referrer",
            "x-content-type-options: nosniff",
        ] {
            assert!(page.head.contains(header), "{header}: {page:?}");
        }
        for part in ["<script", "src=", "onerror", "<link", "@import", "url("] {
            assert!(!page.body.contains(part), "{part}: {}", page.body);
        }
    }
    let titles: BTreeSet<_> = pages.iter().map(Page::title).collect();
    assert!(titles.len() >= 6, "{titles:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_taken_from_the_browser_that_entered_the_code() {
    let mut world = world().await;
    let (own, stranger) = (Browser::new(), Browser::new());
    let asked = world.ask_by_page("kroger/alice").await;
    let callback = world.consent(&own, &asked);
    // A mailed address connects nothing.
    let page = stranger.open(&callback);
    assert_eq!((page.status, page.title()), (403, "Not this browser".to_owned()));
    // Nor does a second browser with the code.
    let page = stranger.open(&asked.start_url);
    let page = stranger.enter(&asked.start_url, &page, &asked.user_code);
    assert_eq!((page.status, page.title()), (403, "Not this browser".to_owned()));
    assert_eq!(world.authority.posts(), 0);
    assert_eq!(world.stands(&asked).await.0, EnrollmentState::Opened);
    let page = own.open(&callback);
    assert_eq!(page.title(), "Connected");

    // An answer whose code was never entered.
    let asked = world.ask_by_page("kroger/bob").await;
    let (callback, _) = callback.split_once("state=").unwrap();
    assert_eq!(own.open(&format!("{callback}state=forged")).status, 404);
    // The form of a stranger's page: it has the code, and not what our page holds.
    let page = own.send(&asked.start_url, &format!("code={}", asked.user_code));
    assert_eq!((page.status, page.title()), (400, "Open the link again".to_owned()));
    let page = Browser::new().send(&asked.start_url, &format!("proof=x&code={}", asked.user_code));
    assert_eq!(page.status, 400);
    assert_eq!(world.stands(&asked).await.0, EnrollmentState::Waiting);
    world.lives("kroger/alice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_is_not_guessed() {
    let mut world = world().await;
    let asked = world.ask_by_page("kroger/alice").await;
    let browser = Browser::new();
    let mut page = browser.open(&asked.start_url);
    for _ in 0..4 {
        page = browser.enter(&asked.start_url, &page, "BBBB-BBBB");
        assert!(page.status == 403 && page.body.contains("That is not the code"), "{page:?}");
    }
    page = browser.enter(&asked.start_url, &page, "BBBB-BBBB");
    assert!(page.body.contains("wrong too often"), "{page:?}");
    assert_eq!(browser.open(&asked.start_url).status, 404);
    let (state, why) = world.stands(&asked).await;
    assert!(state == EnrollmentState::Failed && why.contains("wrong too often"), "{why}");

    // Whoever is through is not thrown out by the guesses of others.
    let asked = world.ask_by_page("kroger/alice").await;
    let callback = world.consent(&browser, &asked);
    let stranger = Browser::new();
    let page = stranger.open(&asked.start_url);
    for _ in 0..6 {
        assert_eq!(
            stranger.enter(&asked.start_url, &page, "BBBB-BBBB").title(),
            "Not this browser"
        );
    }
    assert_eq!(browser.open(&callback).title(), "Connected");
}

#[tokio::test(flavor = "multi_thread")]
async fn impatience_and_repetition_change_nothing() {
    let mut world = world().await;
    let browser = Browser::new();
    let asked = world.ask_by_page("kroger/alice").await;
    let callback = world.consent(&browser, &asked);
    world.authority.delay(Duration::from_millis(700));
    let titles: Vec<_> = std::thread::scope(|scope| {
        let both = [(); 2].map(|()| scope.spawn(|| browser.open(&callback).title()));
        both.map(|page| page.join().unwrap()).into()
    });
    world.authority.delay(Duration::ZERO);
    assert!(titles.contains(&"Connected".to_owned()), "{titles:?}");
    assert!(titles.contains(&"One moment".to_owned()), "{titles:?}");
    assert_eq!(browser.open(&callback).title(), "Connected");
    assert_eq!(world.authority.posts(), 1);
    assert_eq!(world.stands(&asked).await.0, EnrollmentState::Granted);

    // Two enrolments of one grant at once, in one browser: the later consent is what lives.
    let (one, two) =
        (world.ask_by_page("kroger/alice").await, world.ask_by_page("kroger/alice").await);
    let (first, second) = (world.consent(&browser, &one), world.consent(&browser, &two));
    assert_eq!(browser.open(&second).title(), "Connected");
    assert_eq!(browser.open(&first).title(), "Connected");
    assert_eq!(world.stands(&one).await.0, EnrollmentState::Granted);
    let (ok, _, errors) = world.program.cli(&["get", "kroger/alice"]);
    assert!(ok, "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_went_wrong_is_told_at_both_ends() {
    let mut world = world().await;
    let browser = Browser::new();
    let asked = world.ask_by_page("kroger/alice").await;
    let callback = world.consent(&browser, &asked);
    // The broker is killed between the code and the answer.
    world.die(&[PAGES]).await;
    let callback = callback.split_once("/oauth").unwrap().1;
    let callback = format!("http://{}/oauth{callback}", world.program.pages);
    world.authority.next(Fault::After(Way::Reset));
    let page = browser.open(&callback);
    assert!(page.body.contains("no definite answer"), "{page:?}");
    let (state, why) = world.stands(&asked).await;
    assert!(state == EnrollmentState::Failed && why.contains("no definite answer"), "{why}");
    assert_eq!(browser.open(&callback).title(), "Not connected");
    assert_eq!(world.authority.posts(), 1, "no code is sent twice");

    let asked = world.ask_by_page("kroger/alice").await;
    let question = begin(&browser, &asked);
    let request = CancelEnrollmentRequest { enrollment_id: asked.enrollment_id.clone() };
    world.client.admin.cancel_enrollment(request).await.unwrap();
    let callback = world.authority.answer("alice", &question);
    assert_eq!(browser.open(&callback).title(), "Cancelled");
    assert_eq!(world.authority.posts(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_line_that_goes_leaves_nothing() {
    let world = world().await;
    for signal in ["INT", "TERM"] {
        let (mut waits, mut told) =
            enroll(&world.program, &["kroger/alice", "--provider", "default"]);
        let url = until(&mut told, "http").trim().to_owned();
        until(&mut told, "waiting for the browser");
        let browser = Browser::new();
        assert_eq!(browser.open(&url).status, 200);
        let id = waits.id().to_string();
        let stopped = std::process::Command::new("kill").args(["-s", signal, &id]).status();
        assert!(stopped.unwrap().success());
        assert_eq!(waits.wait().unwrap().code(), Some(130));
        assert_eq!(browser.open(&url).status, 404);
    }
}

/// Whoever knows the state could bring a code of their own for the grant of somebody else.
#[tokio::test(flavor = "multi_thread")]
async fn what_began_at_the_pages_ends_there() {
    let mut world = world().await;
    let browser = Browser::new();
    let asked = world.ask_by_page("kroger/alice").await;
    let callback = world.consent(&browser, &asked);
    let mallorys = world.authority.answer("mallory", &callback_question(&callback, &world));
    for address in [&callback, &mallorys] {
        let error = world.client.admin.complete_enrollment(answer(address)).await.unwrap_err();
        assert!(error.message().contains("the browser that opened it"), "{error:?}");
    }
    assert_eq!(world.authority.posts(), 0, "no code is spent by a no");
    assert_eq!(browser.open(&callback).title(), "Connected");
    world.lives("kroger/alice");
}

/// The question to which this callback is the answer, as it could be asked of another person.
fn callback_question(callback: &str, world: &World) -> String {
    let state = answer(callback).state;
    let redirect = callback.split_once('?').unwrap().0;
    let part =
        |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    format!(
        "{}/authorize?response_type=code&client_id=id&state={}&redirect_uri={}",
        world.base,
        part(&state),
        part(redirect)
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_browser_reaches_the_pages_the_address_is_pasted() {
    let world = world().await;
    let (mut waits, mut told) = enroll(&world.program, &["kroger/alice", "--paste"]);
    let question = until(&mut told, "http").trim().to_owned();
    let callback = world.authority.answer("alice", &question);
    let page = Browser::new().open(&callback);
    assert_eq!(page.title(), "Nearly there");
    std::io::Write::write_all(&mut waits.stdin.take().unwrap(), callback.as_bytes()).unwrap();
    let output = waits.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    world.lives("kroger/alice");
}

/// Nobody's consent is exchanged for tokens without the audit log, where that is required.
#[tokio::test(flavor = "multi_thread")]
async fn a_consent_waits_for_the_audit_log() {
    let sink = tempfile::tempdir().unwrap();
    let path = sink.path().join("audit.jsonl");
    let place = format!("file:{}", path.display());
    let mut world = World::new(&[
        PAGES,
        ("TOKEN_BROKER__AUDIT__SINK", &place),
        ("TOKEN_BROKER__AUDIT__REQUIRED", "true"),
    ])
    .await;
    let (browser, asked) = (Browser::new(), world.ask_by_page("kroger/alice").await);
    let callback = world.consent(&browser, &asked);
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    let page = browser.open(&callback);
    assert_eq!(page.status, 503, "{page:?}");
    assert_eq!(world.authority.rotations(), 0, "the code was not sent");
    std::fs::remove_dir(&path).unwrap();
    let page = browser.open(&callback);
    assert_eq!(page.title(), "Connected", "{page:?}");
    let lines = std::fs::read_to_string(&path).unwrap();
    let of = |part: &str| lines.lines().filter(|line| line.contains(part)).count();
    assert_eq!(of("\"caller\":\"browser\""), 2, "a beginning and an end: {lines}");
    assert_eq!((of("\"outcome\":\"OK\""), of("broker.enrolled")), (1, 1), "{lines}");
}
