//! Chromium without a window, by the `WebDriver` protocol (W3C); curl speaks it.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::time::Instant;

/// Longest wait for a page.
const PAGE_MAX: Duration = Duration::from_secs(20);
/// The key of an element in answers.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

pub(crate) struct Chromium {
    driver: Child,
    session: String,
    /// Where pictures go, if they are wanted.
    screens: Option<PathBuf>,
}

impl Chromium {
    pub(crate) fn start() -> Self {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("run `make interop`");
        let lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let mut lines = lines.map_while(Result::ok);
        let line = lines.find(|line| line.contains("successfully on port ")).unwrap();
        let port = line.rsplit(' ').next().unwrap().trim_end_matches('.').to_owned();
        std::thread::spawn(move || lines.for_each(drop));
        let base = format!("http://127.0.0.1:{port}/session");
        let arguments = json!([
            "--headless=new",
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--window-size=900,900"
        ]);
        let started = curl(
            "POST",
            &base,
            &json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": { "args": arguments }, "goog:loggingPrefs": { "browser": "ALL" }
        } } }),
        );
        let session = format!("{base}/{}", started["sessionId"].as_str().unwrap());
        #[expect(clippy::disallowed_methods, reason = "where pictures go is nobody's setting")]
        let screens = std::env::var("INTEROP_SCREENS").ok().map(PathBuf::from);
        if let Some(screens) = &screens {
            std::fs::create_dir_all(screens).unwrap();
        }
        Self { driver, session, screens }
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        curl("POST", &format!("{}{path}", self.session), body)
    }

    fn get(&self, path: &str) -> Value {
        curl("GET", &format!("{}{path}", self.session), &Value::Null)
    }

    pub(crate) fn open(&self, url: &str) {
        self.post("/url", &json!({ "url": url }));
    }

    pub(crate) fn address(&self) -> String {
        self.get("/url").as_str().unwrap().to_owned()
    }

    fn find(&self, what: &str) -> Option<String> {
        let found = self.post("/element", &json!({ "using": "css selector", "value": what }));
        found[ELEMENT].as_str().map(str::to_owned)
    }

    /// Waits until it is there.
    pub(crate) fn appears(&self, what: &str) -> String {
        let start = Instant::now();
        loop {
            if let Some(found) = self.find(what) {
                return found;
            }
            assert!(start.elapsed() < PAGE_MAX, "no {what} at {}", self.address());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits for the page with this heading, and keeps a picture of it.
    pub(crate) fn shows(&self, heading: &str, picture: &str) {
        let start = Instant::now();
        loop {
            let shown = self.find("h1").map(|found| self.get(&format!("/element/{found}/text")));
            if shown.as_ref().is_some_and(|shown| shown == heading) {
                break;
            }
            assert!(start.elapsed() < PAGE_MAX, "{shown:?} and not {heading}");
            std::thread::sleep(Duration::from_millis(50));
        }
        if let Some(screens) = &self.screens {
            let png = STANDARD.decode(self.get("/screenshot").as_str().unwrap()).unwrap();
            std::fs::write(screens.join(format!("{picture}.png")), png).unwrap();
        }
    }

    pub(crate) fn fill(&self, what: &str, text: &str) {
        let field = self.appears(what);
        self.post(&format!("/element/{field}/clear"), &json!({}));
        self.post(&format!("/element/{field}/value"), &json!({ "text": text }));
    }

    pub(crate) fn press(&self, what: &str) {
        let button = self.appears(what);
        self.post(&format!("/element/{button}/click"), &json!({}));
    }

    /// What the browser has to say against our own pages.
    pub(crate) fn complaints(&self, callback: &str) -> Vec<String> {
        let ours = callback.trim_end_matches("/oauth/callback");
        let said = self.post("/se/log", &json!({ "type": "browser" }));
        let said = said.as_array().into_iter().flatten();
        let about_us = |text: &&str| text.contains(ours) && !text.contains("favicon");
        let text = said.filter_map(|entry| entry["message"].as_str()).filter(about_us);
        // A page that says no comes with the status of a no.
        text.filter(|text| !text.contains("status of 40")).map(str::to_owned).collect()
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        curl("DELETE", &self.session, &Value::Null);
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// The value of an answer.
fn curl(method: &str, url: &str, body: &Value) -> Value {
    let mut curl = Command::new("curl");
    curl.args(["-s", "--max-time", "60", "-X", method, url]);
    if !body.is_null() {
        curl.args(["-H", "content-type: application/json", "--data-raw", &body.to_string()]);
    }
    let answer: Value = serde_json::from_slice(&curl.output().unwrap().stdout).unwrap();
    answer["value"].clone()
}
