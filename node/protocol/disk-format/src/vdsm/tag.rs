//! Text as an LVM tag: characters that LVM does not take become `&<code>&`.

use nom::IResult;
use nom::Parser;
use nom::branch::alt;
use nom::bytes::complete::take_while1;
use nom::character::complete::{anychar, char, digit1};
use nom::combinator::{all_consuming, map, map_opt, map_res};
use nom::multi::fold_many0;
use nom::sequence::delimited;

use super::error::FormatError;

/// Bytes of a tag that LVM takes.
pub const BYTES_MAX: usize = 1024;

fn is_kept(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || "_+.-/=!:#".contains(letter)
}

/// The text as (part of) a tag.
#[must_use]
pub fn encode(text: &str) -> String {
    let mut tag = String::with_capacity(text.len());
    for letter in text.chars() {
        if is_kept(letter) {
            tag.push(letter);
        } else {
            tag.push_str(&format!("&{}&", u32::from(letter)));
        }
    }
    tag
}

/// A tag as the text it stands for. An ampersand that begins no `&<code>&`
/// stays as it is, as in the original.
///
/// # Errors
/// When a code is that of no character.
pub fn decode(tag: &str) -> Result<String, FormatError> {
    let parsed: IResult<&str, String> = all_consuming(fold_many0(
        alt((
            map(take_while1(|letter| letter != '&'), str::to_owned),
            map(code, String::from),
            // Not a code: a lone ampersand, unless it is a code of no character.
            map_opt(anychar, |letter| {
                (letter == '&').then(|| letter.to_string())
            }),
        )),
        String::new,
        |mut text, part| {
            text.push_str(&part);
            text
        },
    ))
    .parse(tag);
    parsed
        .map(|(_, text)| text)
        .map_err(|_| FormatError::value("tag", tag, "text with &<code>& for characters"))
}

fn code(tag: &str) -> IResult<&str, char> {
    delimited(
        char('&'),
        map_res(digit1, |digits: &str| {
            digits
                .parse()
                .ok()
                .and_then(char::from_u32)
                .ok_or("no such character")
        }),
        char('&'),
    )
    .parse(tag)
}
