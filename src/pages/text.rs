//! What people read. Every value is escaped where it is put in.

use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use url::Url;

use crate::broker::model::{Enrolment, GrantId};
use crate::clock::between;

const STYLE: &str = "\
:root{color-scheme:light dark}\
body{font:17px/1.55 system-ui,sans-serif;max-width:36em;margin:10vh auto;padding:0 1.2em}\
h1{font-size:1.5em;line-height:1.25;margin:0 0 .8em}\
dl{display:grid;grid-template-columns:max-content 1fr;gap:.3em 1.2em;margin:1.4em 0}\
dt{opacity:.65}dd{margin:0;overflow-wrap:anywhere}\
code{font-size:.95em}\
input,button{font:inherit;padding:.45em .7em;border:1px solid currentColor;border-radius:.3em}\
input{letter-spacing:.12em;text-transform:uppercase;width:9em}\
button{cursor:pointer;font-weight:600}\
.wrong{font-weight:600;color:#b3261e}\
@media(prefers-color-scheme:dark){.wrong{color:#ffb4ab}}\
footer{margin-top:2.5em;font-size:.85em;opacity:.65}";

/// What the policy names the style by.
pub(super) fn style_hash() -> String {
    format!("sha256-{}", STANDARD.encode(digest(&SHA256, STYLE.as_bytes()).as_ref()))
}

fn frame(title: &str, again: Option<&str>, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                @if let Some(again) = again { meta http-equiv="refresh" content=(again); }
                title { (title) " · token-broker" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { (title) }
                (body)
                footer { "token-broker" }
            }
        }
    }
}

/// The question, with a form for the code.
pub(super) fn ask(
    enrolment: &Enrolment,
    proof: &str,
    now: SystemTime,
    wrong: Option<&str>,
) -> Markup {
    let started_by = enrolment.page.as_ref().map_or("", |page| page.started_by.as_str());
    let minutes = between(now, enrolment.expires_at).as_secs().div_ceil(60);
    frame(
        "Connect an account",
        None,
        &html! {
            p {
                "You are about to sign in at " b { (enrolment.provider) } " and to allow that the \
                 grant " b { (enrolment.grant) } " uses your account there."
            }
            dl {
                dt { "Grant" } dd { (enrolment.grant) }
                dt { "Provider" } dd { (enrolment.provider) }
                dt { "Asks for" }
                dd {
                    @if enrolment.scopes.is_empty() { "what the provider gives by itself" }
                    @else { (enrolment.scopes.join(", ")) }
                }
                dt { "Started by" }
                dd { @if started_by.is_empty() { "somebody who did not say" } @else { (started_by) } }
                dt { "Open for" }
                dd { (minutes) @if minutes == 1 { " minute" } @else { " minutes" } }
            }
            @if let Some(wrong) = wrong { p.wrong role="alert" { (wrong) } }
            form method="post" {
                input type="hidden" name="proof" value=(proof);
                p {
                    label for="code" { "The code that the command line shows:" } br;
                    input #code name="code" autocomplete="off" autocapitalize="characters"
                        spellcheck="false" maxlength="20" placeholder="XXXX-XXXX" required autofocus;
                    " "
                    button { "Continue" }
                }
            }
            p {
                "You have no code, or do not know who started this? Close this page, and nothing happens."
            }
        },
    )
}

/// On to the provider, which is named: a password is to be typed there.
pub(super) fn go(url: &str) -> Markup {
    let host = Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned));
    let host = host.unwrap_or_default();
    frame(
        "Continue at the provider",
        Some(&format!("1; url={url}")),
        &html! {
            p { "You are taken to " b { (host) } "." }
            p { a href=(url) rel="noreferrer" { "Continue" } }
        },
    )
}

/// The grant lives.
pub(super) fn granted(grant: &GrantId) -> Markup {
    frame(
        "Connected",
        None,
        &html! {
            p { "The grant " b { (grant) } " lives, and is kept alive from now on." }
            p { "You can close this page." }
        },
    )
}

/// It came to nothing.
pub(super) fn failed(why: &str, besides: Option<&str>) -> Markup {
    frame(
        "Not connected",
        None,
        &html! {
            p { (sentence(why)) }
            @if let Some(besides) = besides { p { (besides) } }
            (begin_again())
        },
    )
}

/// Whoever began it ended it.
pub(super) fn cancelled() -> Markup {
    frame(
        "Cancelled",
        None,
        &html! {
            p { "Whoever started this has cancelled it. Nothing was changed." }
            (begin_again())
        },
    )
}

/// The code is being exchanged.
pub(super) fn under_way() -> Markup {
    frame(
        "One moment",
        Some("2"),
        &html! {
            p { "The provider is asked for the tokens. This page looks again every two seconds." }
            p {
                "If it goes on for minutes, the broker was stopped in between: "
                code { "token-broker grant show" } " says whether the grant lives."
            }
        },
    )
}

/// Begun elsewhere, or by nobody.
pub(super) fn other_browser() -> Markup {
    frame(
        "Not this browser",
        None,
        &html! {
            p {
                "This enrolment was begun in another browser, or its code was never entered. The answer \
                 is taken only from the browser in which it was, so that nobody's account ends up in a \
                 stranger's grant. Nothing was changed."
            }
            p { "Did somebody send you a link that led here? Then close this page, and tell them no." }
            (begin_again())
        },
    )
}

/// The form came from nowhere.
pub(super) fn no_cookie() -> Markup {
    frame(
        "Open the link again",
        None,
        &html! {
            p {
                "This form did not come with the cookie that belongs to it. Open the link of the command \
                 line again, in a browser that keeps cookies for this address, and enter the code there."
            }
        },
    )
}

/// Nobody may guess on.
pub(super) fn wrong_too_often() -> Markup {
    frame(
        "Not connected",
        None,
        &html! {
            p { "The code was wrong too often, so this enrolment has ended. Nothing was changed." }
            (begin_again())
        },
    )
}

/// The command line does the rest.
pub(super) fn to_be_pasted() -> Markup {
    frame(
        "Nearly there",
        None,
        &html! {
            p {
                "Copy the whole address of this page from the address bar, and paste it where "
                code { "token-broker grant enroll" } " waits for it."
            }
            p { "It does not wait on your own screen? Then close this page: give the address to nobody." }
        },
    )
}

/// No question waits.
pub(super) fn nothing_waits() -> Markup {
    frame(
        "Nothing waits here",
        None,
        &html! {
            p {
                "This link was used already, is older than ten minutes, or was never given out by this \
                 broker. Nothing was changed."
            }
            (begin_again())
        },
    )
}

/// What came back is no answer.
pub(super) fn no_answer() -> Markup {
    frame(
        "This is no answer",
        None,
        &html! {
            p {
                "The provider sends browsers here with a " code { "state" } " and a " code { "code" }
                " or an " code { "error" } ", each once. Nothing was changed."
            }
            (begin_again())
        },
    )
}

/// No such page.
pub(super) fn nothing_here() -> Markup {
    frame(
        "There is no such page",
        None,
        &html! {
            p { "Accounts are connected with " code { "token-broker grant enroll" } ", which gives a link." }
        },
    )
}

/// It passes.
pub(super) fn later(why: &str) -> Markup {
    frame(
        "Not now",
        None,
        &html! {
            p { (sentence(why)) }
            p { "Nothing was changed. Load this page again in a moment." }
        },
    )
}

/// Errors are parts of a line elsewhere.
fn sentence(text: &str) -> String {
    let mut rest = text.chars();
    let first = rest.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", rest.as_str().trim_end_matches('.'))
}

fn begin_again() -> Markup {
    html! { p { "To begin again: " code { "token-broker grant enroll" } "." } }
}
