//! Numbers as C's library reads them: what follows is ignored, and no number
//! is 0. Scripts rely on it.

/// As `atoi`: decimal.
pub(super) fn int(text: &[u8]) -> i32 {
    let (negative, magnitude) = magnitude(text, Some(10));
    let limit = i64::MAX.cast_unsigned();
    let long = match (negative, magnitude) {
        (false, magnitude) => magnitude.min(limit).cast_signed(),
        (true, magnitude) if magnitude > limit => i64::MIN,
        (true, magnitude) => -magnitude.cast_signed(),
    };
    // The low half, as the conversion from long to int has it.
    let [a, b, c, d, ..] = long.to_le_bytes();
    i32::from_le_bytes([a, b, c, d])
}

/// As `strtoull` with base 0: decimal, octal after `0`, hexadecimal after `0x`.
pub(super) fn unsigned(text: &[u8]) -> u64 {
    match magnitude(text, None) {
        (false, magnitude) => magnitude,
        (true, u64::MAX) => u64::MAX,
        (true, magnitude) => magnitude.wrapping_neg(),
    }
}

/// Sign and digits after white space.
fn magnitude(text: &[u8], base: Option<u32>) -> (bool, u64) {
    let text = text.trim_ascii_start();
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] | digits => (false, digits),
    };
    let (radix, digits) = match (base, digits) {
        (Some(base), digits) => (base, digits),
        (None, [b'0', b'x' | b'X', digits @ ..]) => (16, digits),
        (None, [b'0', digits @ ..]) => (8, digits),
        (None, digits) => (10, digits),
    };
    let mut value = 0u64;
    for digit in digits
        .iter()
        .map_while(|&byte| char::from(byte).to_digit(radix))
    {
        match value
            .checked_mul(u64::from(radix))
            .and_then(|value| value.checked_add(u64::from(digit)))
        {
            Some(next) => value = next,
            None => return (negative, u64::MAX),
        }
    }
    (negative, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_c_reads_them() {
        for (text, value) in [
            ("5", 5),
            (" +5x", 5),
            ("-7", -7),
            ("x", 0),
            ("", 0),
            ("0x10", 0),
            ("010", 10),
            ("99999999999", 1_215_752_191),
            ("99999999999999999999", -1),
        ] {
            assert_eq!(int(text.as_bytes()), value, "{text}");
        }
        for (text, value) in [
            ("0x10", 16),
            ("010", 8),
            ("99", 99),
            ("5x", 5),
            ("abc", 0),
            ("-1", u64::MAX),
            ("99999999999999999999999", u64::MAX),
        ] {
            assert_eq!(unsigned(text.as_bytes()), value, "{text}");
        }
    }
}
