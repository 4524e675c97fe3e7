#![deny(warnings)]

extern crate self as bitnet_core;
#[allow(dead_code)]
#[path = "../runtime.rs"]
pub mod trace;

use bitnet_trace_macros::{parity_trace, quant_trace};
use std::cell::Cell;

fn main() {
    let evaluated = Cell::new(0);
    let count = |value: &'static str| {
        evaluated.set(evaluated.get() + 1);
        value
    };
    assert_eq!(count("used outside a trace too"), "used outside a trace too");
    let name = String::from("blk.0.attn_q.weight");
    if name.len() > 3 {
        quant_trace!(tensor = name, format = count("I2_S"), kernel = 'k', shape = [2, 3]);
    }
    for step in 0..2 {
        let logits = vec![step as f32, 0.5];
        parity_trace!(step = step, token = 1, logits = &logits);
        drop(logits);
    }
    match name.len() {
        0 => {}
        _ => {
            parity_trace!(logits = &[], step = 2, token = 9);
        }
    }
    let seen = trace::seen();
    if evaluated.get() == 1 {
        assert!(seen.is_empty(), "{seen:?}");
    } else {
        let expected = [
            "quant blk.0.attn_q.weight I2_S k [2, 3]",
            "parity 0 1 [0.0, 0.5]",
            "parity 1 1 [1.0, 0.5]",
            "parity 2 9 []",
        ];
        assert_eq!(seen, expected);
    }
    drop(name);
}
