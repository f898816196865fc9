//! Domain names as option 119 carries them: RFC 1035 §4.1.4 labels, compression pointers relative to the start of
//! the option (RFC 3397 §2).

/// RFC 1035 §2.3.4: 255 octets on the wire, so never more labels than this.
const MAX_NAME: usize = 255;
/// A search list is used for every lookup that fails; resolvers stop at six, we keep no more than this.
const MAX_NAMES: usize = 32;

/// The names of an option 119; none when it is malformed.
pub(crate) fn read_all(value: &[u8]) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let mut at = 0;
    while at < value.len() {
        let (name, next) = read(value, at)?;
        at = next;
        if names.len() < MAX_NAMES && !name.is_empty() {
            names.push(name);
        }
    }
    Some(names)
}

/// One name from `start`, and where the next begins. Pointers may only go backwards, so that no input can loop.
fn read(value: &[u8], start: usize) -> Option<(String, usize)> {
    let mut name = String::new();
    let mut at = start;
    let mut lowest = start;
    let mut next = None;
    loop {
        let length = *value.get(at)?;
        match length {
            0 => return Some((name, next.unwrap_or(at + 1))),
            1..=63 => {
                let label = value.get(at + 1..at + 1 + usize::from(length))?;
                if !label.iter().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_')) {
                    return None;
                }
                if !name.is_empty() {
                    name.push('.');
                }
                name.extend(label.iter().map(|c| char::from(*c)));
                if name.len() > MAX_NAME {
                    return None;
                }
                at += 1 + usize::from(length);
            }
            0xc0.. => {
                let low = *value.get(at + 1)?;
                next = next.or(Some(at + 2));
                at = usize::from(length & 0x3f) << 8 | usize::from(low);
                if at >= lowest {
                    return None;
                }
                lowest = at;
            }
            // RFC 1035 §4.1.4: the 10 and 01 combinations are reserved.
            _ => return None,
        }
    }
}

/// A name as labels, uncompressed; none when it is no domain name.
pub(crate) fn write(name: &str) -> Option<Vec<u8>> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let mut out = Vec::new();
    for label in name.split('.') {
        let length = u8::try_from(label.len()).ok().filter(|l| (1..=63).contains(l))?;
        out.push(length);
        out.extend(label.bytes());
    }
    out.push(0);
    (out.len() <= MAX_NAME).then_some(out)
}
