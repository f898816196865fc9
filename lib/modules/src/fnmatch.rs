//! The part of fnmatch(3) that depmod's aliases use: `*`, `?` and `[...]` over bytes.
//!
//! No recursion and no allocation: a mismatch returns to the last `*` only, which is enough because `*` also
//! matches what an earlier one left over. Worst case is text x pattern, both bounded by a line of a file.

/// Whether the whole of `text` matches `pattern`.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        let step = match (pattern.get(p), text.get(t)) {
            (None, None) => return true,
            (Some(b'*'), _) => {
                star = Some((p + 1, t));
                p += 1;
                continue;
            }
            (Some(b'?'), Some(_)) => Some(p + 1),
            (Some(b'['), Some(&byte)) => class(pattern, p, byte),
            (Some(a), Some(b)) if a == b => Some(p + 1),
            _ => None,
        };
        match (step, star) {
            (Some(next), _) => (p, t) = (next, t + 1),
            (None, Some((after, from))) if from < text.len() => {
                star = Some((after, from + 1));
                (p, t) = (after, from + 1);
            }
            (None, _) => return false,
        }
    }
}

/// Matches one `[...]` that begins at `at`; the index behind it when `byte` is a member. A bracket that never
/// closes is an ordinary character, as in fnmatch(3).
fn class(pattern: &[u8], at: usize, byte: u8) -> Option<usize> {
    let mut next = at + 1;
    let negated = matches!(pattern.get(next), Some(b'!' | b'^'));
    next += usize::from(negated);
    let first = next;
    let mut member = false;
    loop {
        match (pattern.get(next), pattern.get(next + 1), pattern.get(next + 2)) {
            (None, ..) => return (byte == b'[').then_some(at + 1),
            (Some(b']'), ..) if next > first => break,
            (Some(low), Some(b'-'), Some(high)) if *high != b']' => {
                member |= (*low..=*high).contains(&byte);
                next += 3;
            }
            (Some(single), ..) => {
                member |= *single == byte;
                next += 1;
            }
        }
    }
    (member != negated).then_some(next + 1)
}
