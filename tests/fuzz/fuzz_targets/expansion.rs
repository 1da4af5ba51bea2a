//! Any text as a word with variables: expanded without a panic and within its limits.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wbuild_dockerfile::Env;
use wbuild_dockerfile::expand::Lexer;

fuzz_target!(|text: &str| {
    let env: Env = [("A", "1"), ("LONG", "a/b/c.d.e"), ("EMPTY", ""), ("PATH", "/bin:/usr/bin")].into_iter().collect();
    for escape in ['\\', '`'] {
        if let Ok(value) = Lexer::new(escape).expand(text, &env) {
            assert!(value.len() <= 1 << 20, "a value of {} bytes", value.len());
        }
    }
});
