//! Patterns of names: `*` is any run within a part, `**` any run at all. Parts end at `/`.

/// A pattern, ready to be compared. Nearly all are of the first three kinds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Pattern {
    /// This name.
    Exact(String),
    /// What begins so, and goes on within the part.
    Part(String),
    /// What begins so.
    Below(String),
    Other(Vec<Piece>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece {
    Char(char),
    WithinPart,
    Anything,
}

impl Pattern {
    pub(super) fn new(text: &str) -> Self {
        let head = text.trim_end_matches('*');
        match (head.contains('*'), text.len() - head.len()) {
            (false, 0) => Self::Exact(text.to_owned()),
            (false, 1) => Self::Part(head.to_owned()),
            (false, _) => Self::Below(head.to_owned()),
            (true, _) => Self::Other(pieces(text)),
        }
    }

    /// Whether the whole name fits.
    pub(super) fn fits(&self, name: &str) -> bool {
        match self {
            Self::Exact(text) => name == text,
            Self::Part(head) => {
                name.strip_prefix(head.as_str()).is_some_and(|rest| !rest.contains('/'))
            }
            Self::Below(head) => name.starts_with(head.as_str()),
            Self::Other(pieces) => fits(pieces, name),
        }
    }
}

fn pieces(text: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for char in text.chars() {
        match (char, pieces.last_mut()) {
            ('*', Some(last @ Piece::WithinPart)) => *last = Piece::Anything,
            ('*', Some(Piece::Anything)) => {}
            ('*', _) => pieces.push(Piece::WithinPart),
            (char, _) => pieces.push(Piece::Char(char)),
        }
    }
    pieces
}

/// Character by character, at all places of the pattern at once: never more work than both lengths
/// multiplied.
fn fits(pieces: &[Piece], name: &str) -> bool {
    let mut places = vec![false; pieces.len() + 1];
    places[0] = true;
    skip_empty_runs(pieces, &mut places);
    for char in name.chars() {
        let mut next = vec![false; places.len()];
        for (at, piece) in pieces.iter().enumerate().filter(|(at, _)| places[*at]) {
            match piece {
                Piece::Char(wanted) => next[at + 1] |= *wanted == char,
                Piece::WithinPart => next[at] |= char != '/',
                Piece::Anything => next[at] = true,
            }
        }
        skip_empty_runs(pieces, &mut next);
        places = next;
    }
    places[pieces.len()]
}

fn skip_empty_runs(pieces: &[Piece], places: &mut [bool]) {
    for (at, piece) in pieces.iter().enumerate() {
        if places[at] && !matches!(piece, Piece::Char(_)) {
            places[at + 1] = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stays_within_its_part_and_two_do_not() {
        for (pattern, fits, not) in [
            ("kroger/alice", &["kroger/alice"][..], &["kroger/alice2", "kroger", ""][..]),
            ("kroger/*", &["kroger/alice", "kroger/"], &["kroger/a/b", "krogers/a", "kroger"]),
            ("kroger/**", &["kroger/alice", "kroger/a/b"], &["krogers/a"]),
            ("*", &["alice", ""], &["kroger/alice"]),
            ("**", &["", "alice", "a/b/c"], &[]),
            ("*/alice", &["kroger/alice", "/alice"], &["a/b/alice", "kroger/alicea"]),
            ("**/alice", &["kroger/alice", "a/b/alice"], &["alice", "a/b/alic"]),
            ("a*b/c**d*", &["ab/cd", "axb/c/x/dy"], &["a/b/cd", "ab/cd/"]),
            ("a*a*a*a*b", &["aaaab", "axaxaxab"], &["aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"]),
        ] {
            let pattern = Pattern::new(pattern);
            for name in fits {
                assert!(pattern.fits(name), "{pattern:?} {name}");
            }
            for name in not {
                assert!(!pattern.fits(name), "{pattern:?} {name}");
            }
        }
    }
}
