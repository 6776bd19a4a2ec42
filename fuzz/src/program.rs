// SPDX-License-Identifier: GPL-2.0-or-later

//! A program of a delta.

use crate::input::Input;
use dmholey_delta::program::Program;

/// Runs a program over a small source. What it makes has the length of its streams, all of them.
pub fn program(data: &[u8]) {
    let mut input = Input::new(data);
    let source: Vec<u8> = (0..input.byte()).map(|n| n.wrapping_mul(7)).collect();
    let add = vec![1; usize::from(input.byte())];
    let put = vec![2; usize::from(input.byte())];
    let len = add.len() + put.len();
    let program = Program {
        control: input.rest().to_vec(),
        add,
        put,
    };
    if let Ok(made) = program.run(&source) {
        assert_eq!(made.len(), len);
    }
    // The same bytes as what a delta holds.
    if let Ok(program) = Program::decode(data, len) {
        assert_eq!(program.add.len() + program.put.len(), len);
    }
}
