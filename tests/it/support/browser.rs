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
    original: String,
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
        let (original, body) = (head.to_owned(), body.to_owned());
        Page { status, head: head.to_lowercase(), original, body }
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

/// Most pages between a question and its answer.
const PAGES_MAX: usize = 12;

impl Browser {
    /// Goes through a server's own pages as `person` does who consents, and gives the address at
    /// `callback` to which that leads.
    pub(crate) fn consent(&self, question: &str, person: &str, callback: &str) -> String {
        let mut at = url::Url::parse(question).unwrap();
        let mut page = self.open(question);
        for _ in 0..PAGES_MAX {
            if let Some(next) = page.redirect() {
                at = at.join(&next).unwrap();
                if at.as_str().starts_with(callback) {
                    return at.into();
                }
                page = self.open(at.as_str());
                continue;
            }
            let (action, form) = page.form(person);
            at = at.join(&action).unwrap();
            page = self.send(at.as_str(), &form);
        }
        panic!("it leads nowhere: {page:?}");
    }
}

impl Page {
    fn redirect(&self) -> Option<String> {
        let line = self.head.lines().find(|line| line.starts_with("location:"))?;
        // The head is kept in lower case, and addresses are not.
        let at = self.original.to_lowercase().find(line)?;
        let line = &self.original[at..at + line.len()];
        Some(line.split_once(':')?.1.trim().to_owned())
    }

    /// Its only form, filled in and sent off.
    fn form(&self, person: &str) -> (String, String) {
        let form = self.between("<form", "</form>");
        let attribute = |tag: &str, name: &str| {
            let (_, rest) = tag.split_once(&format!(" {name}=\""))?;
            Some(rest.split_once('"')?.0.replace("&#x27;", "'").replace("&quot;", "\""))
        };
        let action = attribute(form.split('>').next().unwrap(), "action").unwrap_or_default();
        let mut filled = form_urlencoded::Serializer::new(String::new());
        for input in form.split("<input").skip(1) {
            let input = input.split('>').next().unwrap();
            let Some(name) = attribute(input, "name") else { continue };
            let value = match name.as_str() {
                "login" | "username" => person.to_owned(),
                "password" => "interop".to_owned(),
                _ => attribute(input, "value").unwrap_or_default(),
            };
            filled.append_pair(&name, &value);
        }
        (action, filled.finish())
    }
}
