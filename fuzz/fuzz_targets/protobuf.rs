//! See `gantry_apiserver::http::parsers`.

#![no_main]

use gantry_apiserver::http::parsers::named;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| named("protobuf")(bytes));
