//! A browser as far as pages without scripts need one: curl with a jar of cookies.

use std::process::Command;

use crate::support::process::text;

/// One person's browser.
pub(crate) struct Browser {
    jar: tempfile::NamedTempFile,
}

/// What it was shown.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) status: u16,
    /// In lower case, one a line.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Browser {
    pub(crate) fn new() -> Self {
        Self { jar: tempfile::NamedTempFile::new().unwrap() }
    }

    pub(crate) fn open(&self, url: &str) -> Page {
        self.request(&[url])
    }

    /// Sends the form of a page that was got from `url`, with this in its field.
    pub(crate) fn enter(&self, url: &str, page: &Page, code: &str) -> Page {
        let proof = page.between("name=\"proof\" value=\"", "\"");
        self.send(url, &format!("proof={proof}&code={code}"))
    }

    pub(crate) fn send(&self, url: &str, form: &str) -> Page {
        self.request(&["--data-raw", form, url])
    }

    fn request(&self, arguments: &[&str]) -> Page {
        let jar = self.jar.path().to_str().unwrap();
        let common = ["-s", "-i", "--max-time", "30", "-b", jar, "-c", jar];
        let output = Command::new("curl").args(common).args(arguments).output().unwrap();
        let answer = text(&output.stdout);
        let (head, body) = answer.split_once("\r\n\r\n").expect("no answer");
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Page { status, head: head.to_lowercase(), body: body.to_owned() }
    }
}

impl Page {
    /// What stands between two parts of the page.
    pub(crate) fn between(&self, before: &str, after: &str) -> String {
        let (_, rest) = self.body.split_once(before).unwrap_or_else(|| panic!("{self:?}"));
        rest.split_once(after).unwrap().0.replace("&amp;", "&")
    }

    /// Where the only link leads.
    pub(crate) fn link(&self) -> String {
        self.between("<a href=\"", "\"")
    }

    pub(crate) fn title(&self) -> String {
        self.between("<h1>", "</h1>")
    }
}
