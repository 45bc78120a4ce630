//! Secrets that are written to files of their own.

use std::path::Path;

use crate::secret::ClientSecret;
use crate::textfile;

/// Longest client secret.
const SECRET_LEN_MAX: u64 = 64 * 1024;

/// Reads a client secret from its file, and another one where it has two lines: while one takes the place
/// of the other, either may be the one that the provider takes.
pub(super) fn client_secrets(path: &Path) -> Result<(ClientSecret, Option<ClientSecret>), String> {
    let text = secret(path)?;
    let mut lines = text.expose().lines().filter(|line| !line.is_empty());
    let shown = path.display();
    let first = lines.next().ok_or_else(|| format!("{shown} is empty"))?;
    let second = lines.next();
    if lines.next().is_some() {
        return Err(format!("{shown} has more than two lines: the secret, and the one before it"));
    }
    Ok((ClientSecret::new(first), second.map(ClientSecret::new)))
}

/// Reads a secret from its file; one trailing newline is ignored.
pub(super) fn secret(path: &Path) -> Result<ClientSecret, String> {
    let shown = path.display();
    let text = textfile::read(path, SECRET_LEN_MAX)
        .map_err(|error| format!("{shown} cannot be read: {error}"))?;
    plain(&text).map(ClientSecret::new).map_err(|why| format!("{shown} {why}"))
}

/// A secret without what editors and shells put around it: a mark of the byte order, one newline.
pub(super) fn plain(text: &str) -> Result<&str, &'static str> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err("is empty");
    }
    if text.contains('\0') {
        return Err("holds a zero byte, which no secret does; write it anew as plain text");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn what_surrounds_a_secret_is_no_part_of_it() {
        for text in ["s3", "s3\n", "s3\r\n", "\u{feff}s3", "\u{feff}s3\n"] {
            assert_eq!(plain(text), Ok("s3"), "{text:?}");
        }
        assert_eq!(plain(" s3 "), Ok(" s3 "), "spaces may be part of it");
        assert!(plain("\n").is_err() && plain("\u{feff}").is_err() && plain("s\0t").is_err());
    }
}
