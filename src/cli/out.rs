//! Output: what a command prints, safe for a terminal and for a pipe that closes.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write as _};

/// Prints a result and a line end to standard output.
///
/// Whoever reads may stop reading, as `head` does: the command has done its work and ends with 0.
pub(super) fn line(result: impl Display) {
    let text = shown(&result.to_string());
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => note(format_args!("error: the result cannot be written: {error}")),
        Ok(()) => {}
    }
}

/// Tells a person something beside the result, on standard error.
pub(super) fn note(text: impl Display) {
    // If nobody hears it, nothing is lost.
    let _ = writeln!(io::stderr().lock(), "{}", shown(&text.to_string()));
}

/// The text without what would act on a terminal: labels and providers' answers are others' words.
fn shown(text: &str) -> String {
    let safe = |c: char| !c.is_control() || c == '\n' || c == '\t';
    if text.chars().all(safe) {
        return text.to_owned();
    }
    text.chars()
        .map(|c| if safe(c) { c.to_string() } else { c.escape_default().to_string() })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_acts_on_the_terminal() {
        assert_eq!(shown("a\tb\nc é"), "a\tb\nc é");
        assert_eq!(shown("\u{1b}[2J\rx\u{7}\u{9b}"), "\\u{1b}[2J\\rx\\u{7}\\u{9b}");
    }
}
