//! Every parser of what clients send, given random bytes and samples with random damage: none may panic. The fuzz targets in `fuzz/`
//! look longer, guided by coverage.

use std::time::{Duration, Instant};

use gantry_apiserver::http::parsers::{PARSERS, Parser};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{Rng as _, SeedableRng as _};

/// Inputs of each parser: about a twentieth of what `GANTRY_TEST_FULL` asks for.
const ROUNDS: usize = 2_000;
const FULL_ROUNDS: usize = 40_000;
/// The longest that one input of a few hundred bytes may take.
const LIMIT: Duration = Duration::from_secs(1);
/// Pieces that mean something to one parser or another.
const WORDS: [&[u8]; 24] = [
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b":",
    b",",
    b"null",
    b"1e999",
    b"-",
    b"\\u0000",
    b"\xff",
    b"%",
    b"&a ",
    b"*a",
    b"\n  ",
    b"- ",
    b"$patch",
    b"~1",
    b"/-",
    b"k:{",
    b"f:",
    b"\x0a\xff\x01",
    b"99999999999999999999",
];

#[test]
fn no_parser_panics_whatever_the_bytes() {
    let given = std::env::var("GANTRY_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| jiff::Timestamp::now().as_microsecond().unsigned_abs());
    eprintln!("seed: GANTRY_TEST_SEED={seed}");
    let rounds = if std::env::var_os("GANTRY_TEST_FULL").is_some() { FULL_ROUNDS } else { ROUNDS };
    for parser in &PARSERS {
        let mut random = StdRng::seed_from_u64(seed);
        for sample in parser.samples {
            (parser.run)(sample);
        }
        for _ in 0..rounds {
            let input = input(parser, &mut random);
            let begin = Instant::now();
            if let Err(panic) = std::panic::catch_unwind(|| (parser.run)(&input)) {
                eprintln!("{}: {:?}", parser.name, String::from_utf8_lossy(&input));
                std::panic::resume_unwind(panic);
            }
            let took = begin.elapsed();
            assert!(took < LIMIT, "{}: {took:?} for {:?}", parser.name, String::from_utf8_lossy(&input));
        }
    }
}

/// Noise, or a sample with some of it changed, cut out, doubled or replaced by a word.
fn input(parser: &Parser, random: &mut StdRng) -> Vec<u8> {
    let sample = parser.samples.choose(random).copied().unwrap_or_default();
    if random.random_ratio(1, 8) {
        return (0..random.random_range(0..200)).map(|_| random.random()).collect();
    }
    let mut bytes = sample.to_vec();
    for _ in 0..random.random_range(1..6) {
        let at = random.random_range(0..=bytes.len());
        let end = random.random_range(at..=bytes.len().min(at + 16));
        match random.random_range(0..5) {
            0 if at < bytes.len() => bytes[at] = random.random(),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let piece = bytes[at..end].repeat(random.random_range(1..20));
                bytes.splice(at..at, piece);
            }
            3 => bytes[at..end].shuffle(random),
            _ => {
                let word = WORDS.choose(random).copied().unwrap_or_default();
                bytes.splice(at..end, word.iter().copied());
            }
        }
    }
    bytes
}
